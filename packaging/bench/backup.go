package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
	"chom.dev/servers/s3"
)

const (
	backupWithin = 20 * time.Minute // of one backup or restore
	// visitEvery is the pace of the visitor who is there meanwhile.
	visitEvery = 100 * time.Millisecond
	idleVisits = 300
	// scheduledWithin is how long a host takes until it has made its first scheduled backup of a site.
	scheduledWithin = 10 * time.Minute
	scheduleEvery   = 15 * time.Minute // the shortest that there is
	bucket          = "bench"
)

// backups fills a WordPress site with 1 GB and measures its first backup, two after
// 1 % has changed, and a restore, each beside what a person does by hand on the
// same host with the same data; their S3 lies where chomd's repositories do.
//
// What of a database changes in a day are its newest rows, nearly: posts, comments,
// orders, sessions. One row in each hundred, all over the table, is the worst that 1 %
// can be: a repository parts what it stores in pieces of about 1 MB, and each has
// changed. Both are measured; what is promised is of the first.
//
// The visitor comes while the host makes a backup by itself, as the site's schedule
// has it: one that somebody asked for, and waits for, does not give way to the same
// degree. chomd gives way then, too: it stands for a machine elsewhere, and takes no
// processor time of the host's there. In all other rows both sides have the whole
// machine, with chomd and the S3 on it.
func backups(ctx context.Context, b *bench) (_ []row, err error) {
	archive, err := lab.EnsureWordPress(ctx, lab.Bookworm, nil)
	if err != nil {
		return nil, err
	}
	s, err := b.build(ctx, rig.Options{Archive: &archive})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	org, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	host, server, err := s.server(ctx)
	if err != nil {
		return nil, err
	}
	hand, stop, err := s.byHand(ctx, host)
	if err != nil {
		return nil, err
	}
	defer stop()
	made, err := s.Sites.CreateSite(ctx, &sitev1.CreateSiteRequest{
		OrganizationId: org, Name: "backup", Type: "wordpress", ServerId: server.GetId(), Domains: []string{"backup.bench.example"},
		Settings: map[string]string{"title": "Backup", "admin_user": "owner", "admin_email": "owner@bench.example"},
	})
	if err != nil {
		return nil, err
	}
	if _, err := s.WaitDone(ctx, made.GetTask()); err != nil {
		return nil, err
	}
	site := made.GetSite()
	hand.handle = site.GetHandle()
	if _, err := hand.run(ctx, "fill", hand.handle); err != nil {
		return nil, err
	}
	b.detail("the site is filled")
	idle, err := s.visits(ctx, host, site, idleVisits)
	if err != nil {
		return nil, err
	}

	first, err := s.backUp(ctx, hand, site)
	if err != nil {
		return nil, err
	}
	bare, err := hand.run(ctx, "restic", hand.handle, hand.url)
	if err != nil {
		return nil, err
	}
	b.detail("first: CHOM %+v, by hand %v", first, bare)
	if _, err := hand.run(ctx, "change", hand.handle, "1", "newest"); err != nil {
		return nil, err
	}
	second, err := s.backUp(ctx, hand, site)
	if err != nil {
		return nil, err
	}
	bareAgain, err := hand.run(ctx, "restic", hand.handle, hand.url)
	if err != nil {
		return nil, err
	}
	tar, err := hand.run(ctx, "tar", hand.handle, hand.url)
	if err != nil {
		return nil, err
	}
	dump, err := hand.run(ctx, "dump", hand.handle)
	if err != nil {
		return nil, err
	}
	b.detail("second: CHOM %+v, by hand %v, tar %v", second, bareAgain, tar)
	if _, err := hand.run(ctx, "change", hand.handle, "2", "everywhere"); err != nil {
		return nil, err
	}
	third, err := s.backUp(ctx, hand, site)
	if err != nil {
		return nil, err
	}
	bareThird, err := hand.run(ctx, "restic", hand.handle, hand.url)
	if err != nil {
		return nil, err
	}
	b.detail("third: CHOM %+v, by hand %v", third, bareThird)
	if _, err := hand.run(ctx, "change", hand.handle, "3", "newest"); err != nil {
		return nil, err
	}
	visited, err := s.visitScheduled(ctx, host, hand, site)
	if err != nil {
		return nil, err
	}
	restored, err := s.restoreOf(ctx, host, hand, site, third.id)
	if err != nil {
		return nil, err
	}
	b.detail("restored: %+v", restored)
	bareRestore, err := hand.run(ctx, "restore", hand.handle, hand.url)
	if err != nil {
		return nil, err
	}
	const by = "mariadb-dump and restic by hand"
	rows := []row{
		{Name: "first backup of 1 GB, 20,000 files and 200 MB of database", Value: first.took.Seconds(), Unit: "s", Comparison: &comparison{With: by, Value: bare[0], Bar: atMost(1.15)}},
		{Name: "the same until the control plane has checked it", Value: first.checked.Seconds(), Unit: "s"},
		{Name: "CPU of it on the host", Value: first.cpu, Unit: "s", Comparison: &comparison{With: by, Value: bare[1], Bar: atMost(1.15)}},
		{Name: "backup after 1 % has changed", Value: second.took.Seconds(), Unit: "s", Comparison: &comparison{With: "the first", Value: first.took.Seconds(), Bar: atMost(0.1)}},
		{Name: "the same", Value: second.took.Seconds(), Unit: "s", Comparison: &comparison{With: "tar, zstd and curl to S3", Value: tar[0], Bar: atMost(0.2)}},
		{Name: "the same by restic by hand", Value: bareAgain[0], Unit: "s"},
		{Name: "mariadb-dump of the same database, to nowhere", Value: dump[0], Unit: "s", Comparison: &comparison{With: "the first", Value: first.took.Seconds()}},
		{Name: "bytes that it adds", Value: second.stored, Unit: "MB", Comparison: &comparison{With: "the first", Value: first.stored, Bar: atMost(0.03)}},
		{Name: "backup after 1 % has changed, in rows all over the database", Value: third.took.Seconds(), Unit: "s", Comparison: &comparison{With: by, Value: bareThird[0]}},
		{Name: "bytes that it adds", Value: third.stored, Unit: "MB", Comparison: &comparison{With: "the first", Value: first.stored}},
		{Name: "restore of all of it", Value: restored.took.Seconds(), Unit: "s", Comparison: &comparison{With: "restic restore and mariadb by hand", Value: bareRestore[0], Bar: atMost(1.2)}},
		{Name: "of that the site is closed", Value: restored.closed.Seconds(), Unit: "s"},
		{Name: "memory of agent, helper and restic at most, in the first backup and in the restore", Value: max(first.memory, restored.memory), Unit: "MiB", Bar: atMost(256)},
		{Name: "p95 of the home page during a scheduled backup of 1 %", Value: ms(visited), Unit: "ms", Comparison: &comparison{With: "idle", Value: ms(idle), Bar: atMost(1.5)}},
	}
	for i := range rows {
		rows[i].Statistic, rows[i].Runs = "once", 1
	}
	return rows, nil
}

// byHand is the shell's side: restic with an S3 on this machine.
type byHand struct {
	host   *lab.Host
	handle string
	url    string
	env    []string
}

func (s *stage) byHand(ctx context.Context, h *lab.Host) (*byHand, func(), error) {
	dir := filepath.Join(s.dir, "s3")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	server, err := s3.Start(ctx, s3.Options{Dir: dir, Address: s.Lab.Gateway().String(), Buckets: []string{bucket}})
	if err != nil {
		return nil, nil, err
	}
	text, err := scripts.ReadFile("testdata/backup.sh")
	if err == nil {
		err = h.WriteFile(path.Join(scriptDir, "backup.sh"), text, 0o755)
	}
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return &byHand{
		host: h, url: "s3:" + server.Endpoint + "/" + bucket,
		env: []string{"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey, "RESTIC_PASSWORD=of-the-bench"},
	}, func() { server.Stop() }, nil
}

// run gives the numbers of the script's last line.
func (h *byHand) run(ctx context.Context, args ...string) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, backupWithin)
	defer cancel()
	argv := append([]string{"/usr/bin/env"}, h.env...)
	argv = append(argv, "/bin/bash", path.Join(scriptDir, "backup.sh"))
	out, err := h.host.Output(ctx, append(argv, args...)...)
	if err != nil {
		return nil, fmt.Errorf("backup.sh %s: %w", args[0], err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var numbers []float64
	for _, word := range strings.Fields(lines[len(lines)-1]) {
		n, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return nil, fmt.Errorf("backup.sh %s: %w", args[0], err)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// measuredBackup is a backup and what it took.
type measuredBackup struct {
	id            string
	took, checked time.Duration // until the host had made it, and until it was ready
	cpu           float64       // seconds on the host, without the database server's
	stored        float64       // MB that the repository grew by
	memory        float64       // MiB
}

func (s *stage) backUp(ctx context.Context, hand *byHand, site *sitev1.Site) (m measuredBackup, err error) {
	ctx, cancel := context.WithTimeout(ctx, backupWithin)
	defer cancel()
	before, err := hand.run(ctx, "cpu", site.GetHandle())
	if err != nil {
		return m, err
	}
	size := s.stored(site)
	begin := time.Now()
	made, err := s.Backups.CreateBackup(ctx, &backupv1.CreateBackupRequest{OrganizationId: site.GetOrganizationId(), SiteId: site.GetId()})
	if err != nil {
		return m, err
	}
	m.id = made.GetBackup().GetId()
	var done *taskv1.Task
	if m.memory, err = hand.most(ctx, func() (err error) {
		done, err = s.WaitDone(ctx, &taskv1.Task{OrganizationId: site.GetOrganizationId(), Id: made.GetBackup().GetTaskId()})
		m.took = time.Since(begin)
		return err
	}); err != nil {
		return m, err
	}
	s.b.steps(done, nil)
	for {
		got, err := s.Backups.GetBackup(ctx, &backupv1.GetBackupRequest{OrganizationId: site.GetOrganizationId(), SiteId: site.GetId(), BackupId: m.id})
		if err != nil {
			return m, err
		}
		if got.GetBackup().GetState() == backupv1.State_STATE_FAILED {
			return m, fmt.Errorf("the backup failed: %s", got.GetBackup().GetProblem())
		}
		if got.GetBackup().GetState() == backupv1.State_STATE_READY {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.checked = time.Since(begin)
	after, err := hand.run(ctx, "cpu", site.GetHandle())
	if err != nil {
		return m, err
	}
	m.cpu, m.stored = after[0]-before[0], s.stored(site)-size
	return m, nil
}

// most gives the memory that the agent, its helper and restic take together while
// something is done.
func (h *byHand) most(ctx context.Context, do func() error) (mib float64, err error) {
	var beside errgroup.Group
	beside.Go(func() error {
		most, err := h.run(ctx, "memory", h.handle)
		if err == nil {
			mib = most[0]
		}
		return err
	})
	err = do()
	_, over := h.run(ctx, "over", h.handle)
	return mib, errors.Join(err, over, beside.Wait())
}

// visitScheduled gives the p95 of the home page while the host makes a backup by
// itself, for a visitor who takes processor time himself.
func (s *stage) visitScheduled(ctx context.Context, h *lab.Host, hand *byHand, site *sitev1.Site) (p95 time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, scheduledWithin)
	defer cancel()
	chosen := func(policy string) error {
		_, err := s.Sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
			OrganizationId: site.GetOrganizationId(), SiteId: site.GetId(),
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"backup_policy_id"}}, BackupPolicyId: policy,
		})
		return err
	}
	policy, err := s.Policies.CreatePolicy(ctx, &backupv1.CreatePolicyRequest{
		OrganizationId: site.GetOrganizationId(), Name: "often", Interval: durationpb.New(scheduleEvery),
	})
	if err != nil {
		return 0, err
	}
	if err := chosen(policy.GetPolicy().GetId()); err != nil {
		return 0, err
	}
	if p95, err = s.visitBackup(ctx, h, hand, site); err != nil {
		return 0, err
	}
	if err := chosen(""); err != nil {
		return 0, err
	}
	for { // it is looked at, and nothing else begins before
		all, err := s.Backups.ListBackups(ctx, &backupv1.ListBackupsRequest{OrganizationId: site.GetOrganizationId(), SiteId: site.GetId()})
		if err != nil {
			return 0, err
		}
		for _, b := range all.GetBackups() {
			if b.GetReason() == backupv1.Reason_REASON_SCHEDULED && b.GetState() == backupv1.State_STATE_READY {
				return p95, nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// visitBackup visits from the beginning of the host's next backup to its end.
func (s *stage) visitBackup(ctx context.Context, h *lab.Host, hand *byHand, site *sitev1.Site) (p95 time.Duration, err error) {
	if _, err := hand.run(ctx, "await", hand.handle); err != nil {
		return 0, err
	}
	const normal, idle = 0, 5 // SCHED_OTHER and SCHED_IDLE
	if err := scheduled(s.Pid(), idle, 19); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, scheduled(s.Pid(), normal, 0)) }()
	during, stop := context.WithCancel(ctx)
	defer stop()
	var beside errgroup.Group
	beside.Go(func() (err error) {
		begin := time.Now()
		p95, err = s.visits(during, h, site, 0) // until the end
		s.b.detail("visited for %s, which is as long as the backup took", time.Since(begin).Round(time.Millisecond))
		return err
	})
	_, err = hand.run(ctx, "last", hand.handle)
	stop()
	return p95, errors.Join(err, beside.Wait())
}

// scheduled has the kernel schedule a program's threads by a policy, and those that
// they begin; and its session, which is its own, as one that is so nice.
func scheduled(pid int, policy uint32, nice int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(nice)), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err == nil {
			err = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("schedule %d: %w", pid, err)
		}
	}
	return nil
}

// stored is what chomd has on disk of a site, in MB.
func (s *stage) stored(site *sitev1.Site) (mb float64) {
	_ = filepath.WalkDir(filepath.Join(s.Dir, "chomd", "backups", site.GetOrganizationId(), site.GetId()), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				mb += float64(info.Size()) / 1e6
			}
		}
		return nil
	})
	return mb
}

// measuredRestore is a restore and what it took.
type measuredRestore struct {
	took   time.Duration
	closed time.Duration // for which visitors found the site closed
	memory float64       // MiB
}

// restoreOf puts a backup back.
func (s *stage) restoreOf(ctx context.Context, h *lab.Host, hand *byHand, site *sitev1.Site, id string) (m measuredRestore, err error) {
	ctx, cancel := context.WithTimeout(ctx, backupWithin)
	defer cancel()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	shut := make(chan time.Duration, 1)
	go func() {
		var first, last time.Time
		for watching.Err() == nil {
			// A file: who asks for pages all the time takes the processor that the restore has by hand.
			page, err := rig.Visit(watching, h, site.GetDomains()[0], "/wp-includes/images/blank.gif")
			if watching.Err() == nil && (err != nil || page.Status != 200) {
				if first.IsZero() {
					first = time.Now()
				}
				last = time.Now()
			}
			time.Sleep(20 * time.Millisecond)
		}
		shut <- last.Sub(first)
	}()
	begin := time.Now()
	made, err := s.Backups.RestoreBackup(ctx, &backupv1.RestoreBackupRequest{OrganizationId: site.GetOrganizationId(), SiteId: site.GetId(), BackupId: id, WithoutBackup: true})
	if err != nil {
		return m, err
	}
	var done *taskv1.Task
	m.memory, err = hand.most(ctx, func() (err error) {
		done, err = s.WaitDone(ctx, &taskv1.Task{OrganizationId: site.GetOrganizationId(), Id: made.GetRestore().GetTaskId()})
		m.took = time.Since(begin)
		return err
	})
	stop()
	s.b.steps(done, nil)
	m.closed = <-shut
	return m, err
}

// visits looks at the home page again and again, so many times or until ctx ends, and
// gives the p95.
func (s *stage) visits(ctx context.Context, h *lab.Host, site *sitev1.Site, n int) (time.Duration, error) {
	var all []time.Duration
	for ctx.Err() == nil && (n == 0 || len(all) < n) {
		begin := time.Now()
		page, err := rig.Visit(ctx, h, site.GetDomains()[0], "/")
		if ctx.Err() != nil {
			break
		}
		if err != nil || page.Status != 200 {
			return 0, fmt.Errorf("the home page: %d, %w", page.Status, err)
		}
		all = append(all, time.Since(begin))
		time.Sleep(visitEvery)
	}
	if len(all) == 0 {
		return 0, errors.New("nobody came")
	}
	return percentile(all, 95), nil
}
