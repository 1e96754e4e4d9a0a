package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/backup"
	"chom.dev/agent/drill"
	"chom.dev/agent/fail"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	drillUnit = "drill" // all that a drill runs, one after the other
	// lookWithin is how long the pages of a drill may take together with the start
	// of its servers, on a host that is busy with its sites.
	lookWithin = 10 * time.Minute
	pageWithin = time.Minute
	// phpRuns is where the sites' php-fpm listen: a drill sees none of them.
	phpRuns = "/run/chom-php"
)

// worker does what needs a site's repository. Package backup does.
type worker interface {
	Do(ctx context.Context, site task.Site, w backup.Work, tell func(backup.Progress), result any) error
	Drill(h contract.Handle, into any) error
	KeepDrill(h contract.Handle, found any) error
}

// supervisor runs what is done as a site's user, and ends it.
type supervisor interface {
	runner
	Kill(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	ResetFailed(ctx context.Context, unit string) error
}

// drills is the host's part of all drills.
type drills struct {
	shells  tree.Shells
	systemd supervisor
	backups worker
	agent   string // our own program, for its helpers
	socket  string // of mariadb, where a drill's own server is to be
	phpDir  string // where a drill's php-fpm is to listen
}

// drilling is one attempt at one drill.
type drilling struct {
	*drills
	site     task.Site
	id       contract.DrillID
	contents *backupv1.Contents
	look     drill.LookOrder
	limit    time.Duration
}

// drillState is what has been found so far. It is on disk before the step that
// found it ends.
type drillState struct {
	Drill   string
	Fetched *drill.Fetched
	Pages   []drill.Page
	End     time.Time // zero before the pages were seen
}

// Drill handles DRILL_SITE. The site goes on, and takes no part:
//
//	make-room   what a dead drill left is removed
//	fetch       the backup is restored beside the site, listed and counted
//	look        its pages are asked for there
//	tidy        all of it is removed
func (s *Sites) Drill() task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		c, err := s.parse(o, o.Site.Desired)
		if err != nil {
			return task.Plan{}, err
		}
		switch p := c.desired.GetPhase(); p {
		case sitev1.Phase_PHASE_ACTIVE, sitev1.Phase_PHASE_SUSPENDED, sitev1.Phase_PHASE_TRASHED:
		default:
			return task.Plan{}, fmt.Errorf("the site is %s", p)
		}
		if c.needs.Type != c.typ {
			return task.Plan{}, fmt.Errorf("this host has no plugin for sites of type %s, and can't serve one", c.typ)
		}
		d := &drilling{drills: s.drills, site: o.Site, limit: o.Timeout}
		if err := d.read(o.Message.GetDrillSite(), o); err != nil {
			return task.Plan{}, err
		}
		d.look.HTTPS = c.https()
		if c.needs.NeedsPHP {
			pool := c.pool()
			pool.Listen, pool.Ident, pool.Workers = d.phpDir+"/drill.sock", "drill-"+c.handle.String(), 1
			config, err := pool.Config()
			if err != nil {
				return task.Plan{}, err
			}
			d.look.PHP = &drill.Master{Program: c.release.FPM, Config: config, Socket: pool.Listen}
		}
		return d.plan(), nil
	})
}

// read takes from the order what is to be restored. Nothing is believed that is
// not signed for this very site.
func (d *drilling) read(order *orderv1.DrillSite, o task.Order) error {
	m, err := contract.VerifyManifest(o.Signers, order.GetManifest())
	switch {
	case err != nil:
		return err
	case m.GetOrganizationId() != d.site.Organization.String() || m.GetSiteId() != d.site.ID.String():
		return errors.New("the backup is of another site")
	}
	if d.id, err = contract.ParseDrillID(order.GetDrillId()); err != nil {
		return err
	}
	domains := m.GetDesired().GetDomains() // the site's own name is what it was then
	if len(domains) == 0 {
		domains = d.site.Desired.GetDomains()
	}
	if len(domains) == 0 {
		return errors.New("the site has no main domain")
	}
	host, err := contract.ParseDomain(domains[0])
	if err != nil {
		return err
	}
	d.contents = m.GetContents()
	d.look = drill.LookOrder{Shell: tree.Shell(d.site.Handle), Host: host.String(), Paths: append([]string{"/"}, order.GetPaths()...), Within: pageWithin}
	if d.contents.GetDatabaseSnapshot() != "" {
		d.look.MariaDB = d.socket
	}
	return nil
}

func (d *drilling) plan() task.Plan {
	return task.Plan{
		Steps: []task.Step{
			{Name: "make-room", Do: d.makeRoom},
			{Name: "fetch", Probe: d.fetched, Do: d.fetch},
			{Name: "look", Probe: d.seen, Do: d.see},
			{Name: "tidy", Probe: d.gone, Do: func(ctx context.Context, _ *task.Log) error { return d.remove(ctx, d.site.Handle) }},
		},
		Abort:  func(ctx context.Context, _ *task.Log) error { return d.remove(ctx, d.site.Handle) },
		Report: d.report,
	}
}

// state is that of this drill; an empty one if nothing has been found.
func (d *drilling) state() (drillState, error) {
	var st drillState
	if err := d.backups.Drill(d.site.Handle, &st); err != nil {
		return drillState{}, err
	}
	if st.Drill != d.id.String() {
		return drillState{Drill: d.id.String()}, nil
	}
	return st, nil
}

func (d *drilling) makeRoom(ctx context.Context, log *task.Log) error {
	if err := d.remove(ctx, d.site.Handle); err != nil {
		return err
	}
	if seen, _, err := d.seen(ctx); seen || err != nil {
		return err
	}
	need := d.contents.GetFileBytes() + d.contents.GetFileCount()*blockOverhead
	if d.contents.GetDatabaseSnapshot() != "" {
		need += 2*d.contents.GetDumpBytes() + mariadb.PrivateBytes // with its indexes
	}
	fits, _, err := d.shells.Free()
	if err != nil {
		return err
	}
	log.Note("%s needed, %s free", megabytes(need), megabytes(fits))
	if need+reserve > fits {
		return task.Permanent(fmt.Errorf("the disk of the sites has %s free, and %s are needed to restore the backup beside the site", megabytes(fits), megabytes(need+reserve)))
	}
	return nil
}

func (d *drilling) fetched(context.Context) (bool, string, error) {
	st, err := d.state()
	return st.Fetched != nil, "", err
}

func (d *drilling) fetch(ctx context.Context, log *task.Log) error {
	h := d.site.Handle
	if err := d.remove(ctx, h); err != nil { // of a try before
		return err
	}
	if err := d.shells.EnsureDrill(h, int(d.site.UID)); err != nil {
		return err
	}
	fail.Point("drill.to-come")
	st := drillState{Drill: d.id.String(), Fetched: new(drill.Fetched)}
	if err := d.backups.Do(ctx, d.site, backup.Work{
		Job: drill.FetchJob, Unit: drillUnit, Timeout: d.limit, Idle: true, Beside: d.beside(h),
		Order: drill.FetchOrder{Files: d.contents.GetFilesSnapshot(), Database: d.contents.GetDatabaseSnapshot()},
	}, showing(log, map[string]uint64{"database": d.contents.GetDumpBytes()}), st.Fetched); err != nil {
		return err
	}
	fail.Point("drill.fetched")
	log.Note("%d files of %s", st.Fetched.Files.Count, megabytes(st.Fetched.Files.Bytes))
	return d.backups.KeepDrill(h, st)
}

func (d *drilling) seen(context.Context) (bool, string, error) {
	st, err := d.state()
	return !st.End.IsZero(), "", err
}

// see looks at the restored site. Done anew, its programs have changed what they
// change: files and rows were counted before.
func (d *drilling) see(ctx context.Context, log *task.Log) error {
	st, err := d.state()
	if err != nil {
		return err
	}
	if st.Fetched == nil {
		return task.Permanent(errors.New("what was restored is gone"))
	}
	order, err := json.Marshal(d.look)
	if err != nil {
		return err
	}
	unit, err := run.SiteUnit{
		Handle: d.site.Handle, Name: drillUnit, Argv: []string{d.agent, "sandbox", "look-at-drill"}, Stdin: bytes.NewReader(order),
		Dir: "/", Env: map[string]string{"TMPDIR": "/var/tmp"}, Timeout: min(lookWithin, d.limit), Offline: true, Aside: true, Beside: d.beside(d.site.Handle),
	}.Unit()
	if err != nil {
		return err
	}
	res, err := d.systemd.Run(ctx, unit)
	if err != nil {
		return fmt.Errorf("serve the restored site: %w", err)
	}
	if err := json.Unmarshal(res.Stdout, &st.Pages); err != nil {
		return fmt.Errorf("serve the restored site: %w", err)
	}
	for _, p := range st.Pages {
		log.Printf("%s answers %d, titled %q %s", p.Path, p.Status, p.Title, p.Problem)
	}
	st.End = time.Now().UTC()
	fail.Point("drill.seen")
	return d.backups.KeepDrill(d.site.Handle, st)
}

func (d *drilling) gone(context.Context) (bool, string, error) {
	there, err := d.shells.Drilled(d.site.Handle)
	return !there, "", err
}

// report is the drill as the control plane is told of it.
func (d *drilling) report(r *orderv1.Result) error {
	st, err := d.state()
	if err != nil {
		return err
	}
	if st.Fetched == nil || st.End.IsZero() {
		return fmt.Errorf("drill %s is not complete", d.id)
	}
	found := &backupv1.Evidence{
		StartTime: timestamppb.New(st.Fetched.Start), EndTime: timestamppb.New(st.End),
		FileCount: st.Fetched.Files.Count, FileBytes: st.Fetched.Files.Bytes, ListingSha256: st.Fetched.Files.SHA256, LinksSha256: st.Fetched.Files.Links,
	}
	if db := st.Fetched.Database; db != nil {
		found.DumpSha256 = db.SHA256
		for _, t := range db.Tables {
			found.Tables = append(found.Tables, &backupv1.Table{Name: t.Name, Rows: t.Rows})
		}
	}
	for _, p := range st.Pages {
		found.Pages = append(found.Pages, &backupv1.Page{
			Path: p.Path, HttpStatus: uint32(p.Status), Title: p.Title, BodyBytes: p.Bytes, Problem: p.Problem,
		})
	}
	r.Drill = &backupv1.DrillReport{DrillId: d.id.String(), Evidence: found}
	return nil
}

// beside is the world in which a drill's programs are.
func (s *drills) beside(h contract.Handle) *run.Beside {
	return &run.Beside{Tree: s.shells.Drill(h), Fresh: []string{path.Dir(s.socket), s.phpDir}}
}

// remove ends a drill's programs and deletes what they have left. What was found
// is forgotten before, unless all was: half of a tree must not be looked at.
func (s *drills) remove(ctx context.Context, h contract.Handle) error {
	var st drillState
	if err := s.backups.Drill(h, &st); err != nil {
		return err
	}
	if st.Fetched != nil && st.End.IsZero() {
		if err := s.backups.KeepDrill(h, drillState{}); err != nil {
			return err
		}
		fail.Point("drill.forgotten")
	}
	there, err := s.shells.Drilled(h)
	if err != nil || !there {
		return err
	}
	unit := run.Unit{Name: h.String() + "-" + drillUnit}.Service()
	if err := errors.Join(s.systemd.Kill(ctx, unit), s.systemd.Stop(ctx, unit), s.systemd.ResetFailed(ctx, unit)); err != nil {
		return err
	}
	fail.Point("drill.ended")
	if err := s.shells.RemoveDrill(ctx, s.systemd, s.agent, h); err != nil {
		return err
	}
	fail.Point("drill.removed")
	return nil
}

// forgetDrills removes what drills have left of which nobody waits for the end.
func (s *Sites) forgetDrills(ctx context.Context, reg betweener) error {
	sites, err := reg.Sites()
	if err != nil {
		return err
	}
	var errs []error
	for _, site := range sites {
		there, err := s.shells.Drilled(site.Handle)
		if err == nil && there {
			err = reg.Between(ctx, site.ID, func(site task.Site) error { return s.drills.remove(ctx, site.Handle) })
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("site %s: %w", site.Handle, err))
		}
	}
	return errors.Join(errs...)
}
