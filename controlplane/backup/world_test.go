package backup

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

const (
	publicURL = "https://chom.example.com"
	week      = 7 * 24 * time.Hour
)

// world is a control plane with one server, two organizations, each with a site, and the hand of that server's agent.
type world struct {
	*Backups
	tasks           *task.Tasks
	sites           *site.Sites
	stored          *shelf
	signer          ed25519.PrivateKey
	metrics         *prometheus.Registry
	mailsRead       int
	givenUp         bool // what the agent says comes too late
	server          contract.ServerID
	ours, theirs    contract.OrganizationID
	site, theirSite contract.SiteID
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	_, signer, err := ed25519.GenerateKey(nil)
	must(t, err)
	w := &world{stored: &shelf{manifests: map[contract.SiteID]map[uint64][]byte{}}, signer: signer, metrics: prometheus.NewRegistry()}
	w.tasks, err = task.NewTasks(d, signer, log, prometheus.NewRegistry(), task.OnEnd(task.ConvergeSite, site.Ended),
		task.OnEnd(task.BackupSite, Ended), task.OnEnd(task.RestoreSite, RestoreEnded), task.OnEnd(task.UndoRestore, UndoEnded),
		task.OnLateEnd(task.RestoreSite, RestoreLate), task.OnLateEnd(task.UndoRestore, UndoLate),
		task.OnEnd(task.DrillSite, func(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
			return w.DrillEnded(ctx, tx, t, result)
		}))
	must(t, err)
	keys, organizations := secrettest.New(), organization.New(d, organization.Config{})
	mails, err := notify.New(d, keys, log, w.metrics, notify.Config{PublicURL: publicURL})
	must(t, err)
	w.Backups, err = New(d, log, Config{
		Keys: keys, Signer: signer, Repositories: w.stored, Every: day, DrillEvery: week, Tasks: w.tasks, Mails: mails, Organizations: organizations, Metrics: w.metrics,
		PublicURL: publicURL,
	})
	must(t, err)
	w.sites = w.newSites(w.Schedule())
	w.enrol(t, d)
	for name, id := range map[string]*contract.OrganizationID{"acme": &w.ours, "other": &w.theirs} {
		made, err := organizations.Create(t.Context(), name, name+"@example.com")
		must(t, err)
		*id = made.ID
	}
	w.site, w.theirSite = w.addSite(t, w.ours, "shop"), w.addSite(t, w.theirs, "blog")
	w.work(t, well)
	t.Cleanup(func() {
		checked, err := audit.New(d).Verify(context.Background(), nil)
		if err != nil || len(checked.Damages) > 0 {
			t.Errorf("the audit trail: %+v, %v", checked, err)
		}
	})
	return w
}

// newSites are the sites as a process has them that was just started.
func (w *world) newSites(schedule func(context.Context, *db.Tx, *site.Site) (site.Schedule, error)) *site.Sites {
	return site.New(w.db, w.tasks, w.log, site.Config{
		AnyName: true, WordPress: &site.Archive{Version: "6.8.1", URL: "http://mirror.example/wp.tar.gz"},
		HasPolicy: HasPolicy, Schedule: schedule, PoliciesTopic: PoliciesTopic,
	})
}

func (w *world) enrol(t *testing.T, d *db.DB) {
	t.Helper()
	servers := fleet.New(d, slog.New(slog.DiscardHandler))
	made, token, err := servers.Create(t.Context(), "web1", fleet.Shared, contract.OrganizationID{}, strings.Repeat("0", 64))
	must(t, err)
	_, err = servers.Enroll(t.Context(), fleet.Enrollment{Token: token.Text, ID: "web1", KeyHash: []byte("web1"), Facts: fleet.Facts{Prepared: true}}, time.Now(),
		func(contract.ServerID) (pki.Certificate, error) {
			return pki.Certificate{DER: []byte("web1"), Serial: "web1", KeyHash: []byte("web1"), Expires: time.Now().Add(time.Hour)}, nil
		},
		func(context.Context, *db.Tx, contract.ServerID) error { return nil })
	must(t, err)
	w.server = made.ID
	w.exec(t, `DELETE FROM tasks`) // that prepares it
}

// addSite makes one whose host is still to be told of it. It keeps a database.
func (w *world) addSite(t *testing.T, organization contract.OrganizationID, name string) contract.SiteID {
	t.Helper()
	made, _, err := w.sites.Create(t.Context(), site.Request{
		Organization: organization, Name: name, Type: "wordpress", Domains: []string{name + ".example.com"},
		Settings: map[string]string{"admin_email": "a@example.com"},
	})
	must(t, err)
	return made.ID
}

// work does what the server's agent would: it takes all orders and reports how they ended.
func (w *world) work(t *testing.T, do func(*orderv1.Order) *orderv1.Result) (orders []*orderv1.Order) {
	t.Helper()
	return w.orders(t, func(_ *orderv1.SignedOrder, o *orderv1.Order) *orderv1.Result { return do(o) })
}

// orders is work with orders as they travel.
func (w *world) orders(t *testing.T, do func(*orderv1.SignedOrder, *orderv1.Order) *orderv1.Result) (orders []*orderv1.Order) {
	t.Helper()
	for {
		server, err := fleet.New(w.db, slog.New(slog.DiscardHandler)).Get(t.Context(), w.server)
		must(t, err)
		out, err := w.tasks.Offer(t.Context(), w.server.String(), int64(server.Epoch), time.Now())
		must(t, err)
		if len(out.Offers) == 0 {
			return orders
		}
		for _, s := range out.Offers {
			var order orderv1.Order
			must(t, proto.Unmarshal(s.GetOrder(), &order))
			orders = append(orders, &order)
			event := func(n uint64) *linkv1.TaskEvent {
				return &linkv1.TaskEvent{TaskId: order.TaskId, Attempt: order.Attempt, Fence: order.Fence, Sequence: n, Time: timestamppb.Now()}
			}
			accepted, ended := event(1), event(2)
			accepted.Event = &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{}}
			ended.Event = &linkv1.TaskEvent_Result{Result: do(s, &order)}
			must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
				applied, err := w.tasks.Apply(t.Context(), tx, w.server.String(), []*linkv1.TaskEvent{accepted, ended}, time.Now())
				if len(applied.Refused) > 0 && !w.givenUp {
					t.Errorf("refused: %v", applied.Refused)
				}
				return err
			}, db.ReadCommitted()))
		}
	}
}

// well is how a host answers that does what it is asked.
func well(o *orderv1.Order) *orderv1.Result {
	result := &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}
	if desired := o.GetConvergeSite().GetDesired(); desired != nil {
		result.Observed = &sitev1.ObservedState{
			SiteId: desired.SiteId, Generation: desired.Generation, Phase: desired.Phase, HttpStatus: 200, ObserveTime: timestamppb.Now(),
			Certificates: []*sitev1.ObservedCertificate{{Domain: "shop.example.com", Valid: true, Issuer: "CN=R1"}},
		}
	}
	if order := o.GetBackupSite(); order != nil {
		result.Backup = reportOf(order.BackupId)
	}
	if order := o.GetDrillSite(); order != nil {
		result.Drill = found(order.DrillId)
	}
	return result
}

// with is a host whose report is changed.
func with(change func(*backupv1.Report)) func(*orderv1.Order) *orderv1.Result {
	return func(o *orderv1.Order) *orderv1.Result {
		result := well(o)
		change(result.Backup)
		return result
	}
}

func badly(*orderv1.Order) *orderv1.Result {
	return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Error: "the disk is full"}
}

// What the site has, and how its snapshots are called.
var (
	filesSnapshot    = strings.Repeat("f", 64)
	databaseSnapshot = strings.Repeat("d", 64)
	dump             = sha256.Sum256([]byte("dump"))
)

func files() *contract.Listing {
	l := new(contract.Listing)
	at := time.Unix(1700000000, 5)
	l.Add(contract.Listed{Path: "public", Mode: fs.ModeDir | 0o755, MTime: at})
	l.Add(contract.Listed{Path: "public/index.php", Mode: 0o644, Size: 42, MTime: at})
	return l
}

func database() *contract.Listing {
	l := new(contract.Listing)
	l.Add(contract.Listed{Path: "database.sql", Mode: 0o644, Size: 4, MTime: time.Unix(1700000000, 0)})
	return l
}

func reportOf(id string) *backupv1.Report {
	return &backupv1.Report{
		BackupId: id, StartTime: timestamppb.New(time.Unix(1700000000, 0)), EndTime: timestamppb.New(time.Unix(1700000060, 0)), AddedBytes: 17,
		Contents: &backupv1.Contents{
			FilesSnapshot: filesSnapshot, DatabaseSnapshot: databaseSnapshot,
			Tables: []*backupv1.Table{{Name: "wp_posts", Rows: 3}}, DumpSha256: dump[:], DumpBytes: 4, PageTitle: "Shop",
		},
	}
}

// found is what a host finds in a scratch place to which a backup of the site was restored.
func found(drill string) *backupv1.DrillReport {
	return &backupv1.DrillReport{
		DrillId: drill,
		Evidence: &backupv1.Evidence{
			StartTime: timestamppb.New(time.Unix(1700000100, 0)), EndTime: timestamppb.New(time.Unix(1700000160, 0)),
			FileCount: files().Count(), FileBytes: files().Bytes(), ListingSha256: files().SHA256(), DumpSha256: dump[:],
			Tables: []*backupv1.Table{{Name: "wp_posts", Rows: 3}},
			Pages:  []*backupv1.Page{{Path: "/", HttpStatus: 200, Title: "Shop", BodyBytes: 4711}},
		},
	}
}

// shelf is a fake: it stands for where repositories are stored, with what a host would have written. The real one is tested with
// restic in packages backup/restic and backup/store.
type shelf struct {
	mu        sync.Mutex
	checkErr  error
	readErr   error
	putErr    error
	removeErr error
	verifyErr error
	once      error // what only the next Verify says
	forgetErr error
	verified  []string
	forgotten []uint64
	files     func() *contract.Listing
	database  func() *contract.Listing
	keys      []string
	checks    int
	puts      int
	manifests map[contract.SiteID]map[uint64][]byte
	removed   []contract.SiteID
}

func (s *shelf) Check(ctx context.Context, r Repository) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks++
	s.keys = append(s.keys, string(r.Key.Reveal()))
	return errors.Join(ctx.Err(), s.checkErr)
}

func (s *shelf) List(_ context.Context, _ Repository, snapshot string) (*contract.Listing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case snapshot == filesSnapshot && s.files != nil:
		return s.files(), nil
	case snapshot == filesSnapshot:
		return files(), nil
	case snapshot == databaseSnapshot && s.database != nil:
		return s.database(), nil
	case snapshot == databaseSnapshot:
		return database(), nil
	}
	return nil, errors.Join(ErrDamaged, errors.New("no such snapshot"))
}

func (s *shelf) PutManifest(_ context.Context, r Repository, sequence uint64, manifest []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.putErr != nil {
		return s.putErr
	}
	if s.manifests[r.Site] == nil {
		s.manifests[r.Site] = map[uint64][]byte{}
	}
	s.manifests[r.Site][sequence] = manifest
	return nil
}

func (s *shelf) Browse(_ context.Context, _ Repository, snapshot, dir string, each func(contract.Listed) error) error {
	if snapshot != filesSnapshot || dir != "/" && dir != "/public" {
		return ErrNoFile
	}
	for _, name := range []string{"a", "b", "c"} {
		mode := map[string]fs.FileMode{"a": fs.ModeDir, "c": fs.ModeSymlink}[name]
		if err := each(contract.Listed{Path: path.Join(dir, name)[1:], Mode: mode}); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) Read(_ context.Context, _ Repository, snapshot, file string, to io.Writer) error {
	if s.readErr != nil {
		return s.readErr
	}
	_, err := io.WriteString(to, snapshot+file)
	return err
}

func (s *shelf) Init(context.Context, Repository) error { return nil }

func (s *shelf) Copy(_ context.Context, _, _ Repository, snapshots ...string) ([]string, error) {
	return snapshots, nil
}

func (s *shelf) Walk(_ context.Context, _ Repository, snapshot string, each func(contract.Listed, string, io.Reader) error) error {
	at := time.Unix(1700000000, 5)
	if snapshot != filesSnapshot {
		return ErrDamaged
	}
	for _, f := range []contract.Listed{{Path: "public", Mode: fs.ModeDir | 0o755, MTime: at}, {Path: "public/index.php", Mode: 0o644, Size: 42, MTime: at}} {
		if err := each(f, "", strings.NewReader(strings.Repeat("x", int(f.Size)))); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) SaveFiles(context.Context, Repository, contract.BackupID, string) (string, uint64, error) {
	return filesSnapshot, 10, nil
}

func (s *shelf) SaveDump(context.Context, Repository, contract.BackupID, io.Reader) (string, uint64, error) {
	return databaseSnapshot, 7, nil
}

func (s *shelf) Verify(_ context.Context, _ Repository, part, parts int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified = append(s.verified, fmt.Sprintf("%d/%d", part, parts))
	once := s.once
	s.once = nil
	return errors.Join(s.verifyErr, once)
}

func (s *shelf) Snapshots(context.Context, Repository) ([]string, error) {
	return []string{filesSnapshot, databaseSnapshot}, nil
}

func (s *shelf) Forget(_ context.Context, _ Repository, _ []string, manifests []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgetErr == nil {
		s.forgotten = append(s.forgotten, manifests...)
	}
	return s.forgetErr
}

func (s *shelf) Usage(context.Context, Repository) (uint64, error) { return 1234, nil }

func (s *shelf) Remove(_ context.Context, _ contract.OrganizationID, id contract.SiteID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removeErr != nil {
		return s.removeErr
	}
	s.removed = append(s.removed, id)
	return nil
}

func (w *world) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }))
}

func (w *world) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	must(t, w.db.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// create has a backup of our site made, up to what the host reports.
func (w *world) create(t *testing.T) Backup {
	t.Helper()
	made, err := w.Create(t.Context(), w.ours, w.site)
	must(t, err)
	return made
}

// one makes a backup of our site up to its end.
func (w *world) one(t *testing.T) Backup {
	t.Helper()
	made := w.create(t)
	w.work(t, well)
	w.settled(t, time.Now())
	return w.get(t, made.ID)
}

// settled waits for nothing: it does all that is due at a moment.
func (w *world) settled(t *testing.T, now time.Time) {
	t.Helper()
	for more := true; more; {
		var err error
		more, err = w.checkNext(t.Context(), now)
		must(t, err)
	}
}

func (w *world) get(t *testing.T, id contract.BackupID) Backup {
	t.Helper()
	found, err := w.Get(t.Context(), w.ours, w.site, id)
	must(t, err)
	return found
}

func (w *world) restores(t *testing.T) []Restoration {
	t.Helper()
	all, err := w.ListRestores(t.Context(), w.ours, w.site)
	must(t, err)
	return all
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
