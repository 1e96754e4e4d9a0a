// Package backup keeps the backups of sites and has them put back: what each is, which states it has, and what hosts are ordered
// to do. It neither reads sites nor stores anything of theirs: hosts do the one, and the repositories behind Reader are the other.
//
// A backup is good when the control plane has found it good. The host says what it made; then the control plane reads the
// repository itself, counts, and compares. Only what is the same on both sides is signed:
//
//	Create -> RUNNING --the host reports--> CHECKING --read, compared, signed, kept--> READY
//	             |                             |
//	             |  the task did not succeed,  |  the repository is damaged or holds something else,
//	             |  or its report is no good   |  or could not be read for a day
//	             +-------------> FAILED <------+
//
// One that a host made by itself, as the site's schedule has it, nobody ordered: Reported takes it in when the host tells of it, and it
// begins its life as CHECKING or FAILED.
//
// One that comes from elsewhere no host makes: the control plane brings it into the site's repository while it is RUNNING, from another
// site's (Copy) or from what people have uploaded (CreateImport, BeginImport; package archive reads it), and checks and signs it as any
// other. Whatever it is restored to is a site that has it in its own list, and no host reaches a repository of another site than its own. It says nothing of how well the site itself is backed up.
//
// A site has one backup under way at a time, from RUNNING to the end of CHECKING. Each READY one has a signed manifest
// (chom.backup.v1.Manifest), numbered by its sequence and bound to the one before; it stands in the row and in the repository. The
// number is given before the repository is asked to keep the manifest, so that two manifests never have the same one: a backup that
// cannot be kept after it was signed leaves a gap.
//
// A restore puts a READY backup back into its own site, by an order that holds the signed manifest. The signature is checked before
// the order is given and again by the host, so that write access to the database can't have a site replaced by something else. Unless
// that is not wanted, a backup of what it replaces is made first; the order is given in the transaction in which that one is READY:
//
//	         RUNNING
//	Restore -> a backup --READY--> its own order --the host switched--> DONE <--+
//	              |     before it       |                                 |     | the other one of both
//	              | it FAILED           +--> FAILED: the site is          +--> UNDOING
//	              +-------------------> as it was                         Undo, within a day
//
// While a backup is made or a restore goes on, no other one of either begins; but what its host alone does with a site, as an undo,
// waits for none that comes from elsewhere.
//
// A drill rehearses that. The host restores a READY backup to a scratch place, serves it there, and says what it found; what that
// says of the backup is decided here, by the signed manifest. Run begins the drills of each site, about once a week; who looks after
// an organization is mailed when one fails:
//
//	Drill -> RUNNING --the host says what it found--> PASSED: it is what was recorded
//	            |                                |
//	            |  the host could not do it,     |  it is not
//	            |  or was stopped                |
//	            +------------> FAILED <----------+
//
// A drill keeps nothing else from beginning: a backup waits for its end on the host, and a restore stops it.
//
// When a site's host makes backups by itself, and what is kept of them, a policy says (policyFor): the one that was chosen for the
// site, else the first for one of its tags, else the platform's own. Hosts learn of it as of all that is wanted of a site (package
// site), to which Schedule says it.
//
// A repository is made with a site's first backup and encrypted by a key that only the control plane and the site's host have. Where
// it lies, in the platform's own store or in a target of the organization's (package target), the policy says that the site goes by
// then. It stays there while it holds a backup, whatever the policy says later. It outlives the site's row: Run removes it once that
// is gone.
//
// Every query takes the organization. A backup of another organization does not exist.
package backup

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// State is where a backup is in its life; see the drawing in the package comment.
type State string

// States.
const (
	Running  State = "running"
	Checking State = "checking"
	Ready    State = "ready"
	Failed   State = "failed"
)

// Reason is why a backup was made.
type Reason string

// Reasons.
const (
	Requested     Reason = "requested"
	Scheduled     Reason = "scheduled"
	BeforeRestore Reason = "before_restore"
	Copied        Reason = "copied"
	Imported      Reason = "imported"
)

// Backup is a restorable copy of a site at one moment.
type Backup struct {
	Organization contract.OrganizationID
	ID           contract.BackupID
	Site         contract.SiteID
	Sequence     uint64 // of its manifest; 0 before it is READY
	State        State
	Reason       Reason
	Problem      string // why it FAILED
	TaskID       string
	Source       contract.BackupID // that it was copied from; zero for none
	SourceSite   contract.SiteID   // the site of that; zero for none
	Report       *backupv1.Report  // what the host says; nil before. No right follows from it.
	Target       contract.TargetID // that it lies in; zero for the platform's own store
	CreatedAt    time.Time
	CheckedAt    time.Time // when it was found READY; zero before

	draft    []byte
	manifest []byte // a serialized SignedManifest; nil before it is signed
	put      bool   // the repository has the manifest
	since    time.Time
	tries    int
}

// RestoreState is where a restore is in its life.
type RestoreState string

// States of a restore.
const (
	Restoring     RestoreState = "running"
	Restored      RestoreState = "done"
	RestoreFailed RestoreState = "failed"
	Undoing       RestoreState = "undoing"
)

// Restoration is a backup put back into its site.
type Restoration struct {
	Organization contract.OrganizationID
	ID           contract.RestoreID
	Site         contract.SiteID
	Backup       contract.BackupID
	Files        bool
	Database     bool
	Tables       []string          // that it restores; nil for all of them
	Before       contract.BackupID // the backup of what it replaces, that it begins after; zero for none
	State        RestoreState
	Undone       bool   // the site has again what the restore had replaced
	Problem      string // why it failed, or why it could not be undone
	TaskID       string // its newest
	CreatedAt    time.Time
	EndedAt      time.Time // zero before, and where it failed
	UndoUntil    time.Time // zero where it cannot be undone
}

// Errors.
var (
	ErrNotFound        = fault.NotFound("backup")
	ErrRestoreNotFound = fault.NotFound("restore")
	ErrUnderWay        = fault.Conflict("a backup of the site is under way already: wait until it has ended")
	ErrRestoring       = fault.Conflict("a restore of the site is under way: wait until it has ended")
	ErrNotReady        = fault.Conflict("only a backup that is ready can be restored")
	ErrNoDatabase      = fault.Conflict("the backup holds no database")
	ErrNothing         = fault.Invalid("database_only", "must not be set together with files_only: nothing would be restored")
	ErrTablesOfFiles   = fault.Invalid("tables", "must not be set together with files_only: nothing of the database would be restored")
	ErrNotNewest       = fault.Conflict("only the newest restore of a site can be undone")
	ErrUndoOver        = fault.Conflict("the restore can't be undone any more: what it had replaced is kept for a day")
	ErrNotRestored     = fault.Conflict("the restore has changed nothing that could be undone")
	// ErrForged says that a backup's row was changed by somebody else than the control plane.
	ErrForged = fault.Conflict("what is written down of the backup is not signed by this control plane: it can't be restored")
)

// Repository is one site's, and how to open it.
type Repository struct {
	Organization contract.OrganizationID
	Site         contract.SiteID
	// Key is restic's password for it.
	Key secret.Secret
}

// ErrDamaged is what a Reader's errors wrap that say what the repository is: something is missing in it, or not what was written.
// All others mean that it could not be read now, and that it may be tomorrow.
var ErrDamaged = errors.New("the repository is damaged")

// ErrBusy is what Forget's errors wrap that say that a host works with the repository.
var ErrBusy = errors.New("a host works with the repository")

// Reader reads sites' repositories where they are stored, and never through a host. Each call may be made again.
type Reader interface {
	// Check reads whether all that the repository's snapshots name is there.
	Check(ctx context.Context, r Repository) error
	// List reads what a snapshot holds. One that is not there is damage.
	List(ctx context.Context, r Repository, snapshot string) (*contract.Listing, error)
	// Browse gives what is right in a directory of a snapshot, by name, until each fails. It says ErrNoFile where there is none.
	Browse(ctx context.Context, r Repository, snapshot, dir string, each func(contract.Listed) error) error
	// Read writes a file of a snapshot, a directory as a tar archive.
	Read(ctx context.Context, r Repository, snapshot, file string, to io.Writer) error
	// Init makes a repository, unless it is there. Its host may do so at the same time: both make the same.
	Init(ctx context.Context, r Repository) error
	// Copy brings snapshots into another repository, and says how they are called there. What is there already is not copied again.
	Copy(ctx context.Context, from, to Repository, snapshots ...string) ([]string, error)
	// Walk gives all files, directories and links of a snapshot, each directory before what is in it, until each fails. Content is read
	// before each returns, or not at all.
	Walk(ctx context.Context, r Repository, snapshot string, each func(f contract.Listed, link string, content io.Reader) error) error
	// SaveFiles makes a snapshot of public and private in a directory of this machine, as a host does, and says how many bytes that added.
	SaveFiles(ctx context.Context, r Repository, as contract.BackupID, dir string) (snapshot string, added uint64, err error)
	// SaveDump makes one of a dump.
	SaveDump(ctx context.Context, r Repository, as contract.BackupID, dump io.Reader) (snapshot string, added uint64, err error)
	// PutManifest keeps a serialized SignedManifest, in the place of one with the same sequence.
	PutManifest(ctx context.Context, r Repository, sequence uint64, manifest []byte) error
	// Verify reads whether one of so many parts of the data, from 1 on, is what was written, besides what Check does.
	Verify(ctx context.Context, r Repository, part, parts int) error
	// Snapshots are the ids of all that there are.
	Snapshots(ctx context.Context, r Repository) ([]string, error)
	// Forget removes snapshots, manifests, and all data that no other snapshot needs; what is not there is no error. Broken off at any
	// point it leaves a whole repository, and called again it goes on. It says ErrBusy while a host works with the repository. Nobody
	// of the control plane does, the caller has made sure.
	Forget(ctx context.Context, r Repository, snapshots []string, manifests []uint64) error
	// Usage is how many bytes the repository takes.
	Usage(ctx context.Context, r Repository) (uint64, error)
	// Remove destroys a repository. What is not there is no error.
	Remove(ctx context.Context, organization contract.OrganizationID, site contract.SiteID) error
}

// keyring seals and opens: a secret.Keyring.
type keyring interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// Config is what Backups need.
type Config struct {
	Keys keyring
	// Signer signs manifests: the key that signs orders.
	Signer ed25519.PrivateKey
	// Repositories are where backups are stored.
	Repositories Reader
	// Off says, in words for people, why no backup is made here; empty where they are.
	Off string
	// Every is how often sites are backed up by themselves that go by no policy of their organization's; 0 for never.
	Every time.Duration
	// Uploads are where what people upload lies until it is a backup.
	Uploads UploadConfig
	// DrillEvery is how often each site has a drill by itself; 0 for never.
	DrillEvery time.Duration
	// Quota is how many bytes the backups of an organization may take for which nothing else is set; 0 for no limit.
	Quota uint64

	Tasks         tasks
	Mails         mails
	Organizations organizations
	Metrics       prometheus.Registerer
	// PublicURL is under which people reach the control plane: http(s)://HOST[:PORT].
	PublicURL string
}

// tasks are a task.Tasks.
type tasks interface {
	Cancel(ctx context.Context, tx *db.Tx, organization, id string) (task.Task, error)
}

// mails are a notify.Mails.
type mails interface {
	Enqueue(ctx context.Context, tx *db.Tx, mail notify.Mail) error
}

// organizations are an organization.Organizations.
type organizations interface {
	// Contacts are the name of an organization and the addresses of its owners and admins.
	Contacts(ctx context.Context, tx *db.Tx, id contract.OrganizationID) (name string, to []contract.Email, err error)
}

// Backups keep them. They are safe for concurrent use. Run must run beside them, and tasks must call Ended, RestoreEnded, UndoEnded
// and DrillEnded.
type Backups struct {
	db      *db.DB
	log     *slog.Logger
	config  Config
	metrics drillMetrics
	gauges  gauges
	makers  map[Reason]maker
	wake    chan struct{} // something is to be checked now
	arrive  chan struct{} // something is to be brought from elsewhere now
	uploads *uploads

	mu   sync.Mutex
	wall clock.Wall
}

// New prepares them.
func New(d *db.DB, log *slog.Logger, c Config) (*Backups, error) {
	if len(c.Signer) != ed25519.PrivateKeySize {
		return nil, errors.New("prepare backups: the signer is not an Ed25519 key")
	}
	made := &Backups{db: d, log: log, config: c, metrics: newDrillMetrics(), gauges: newGauges(), wake: make(chan struct{}, workers), arrive: make(chan struct{}, receivers)}
	made.makers = map[Reason]maker{Copied: made.copied, Imported: made.imported}
	made.uploads = newUploads(c.Uploads)
	if err := errors.Join(made.metrics.register(c.Metrics), made.gauges.register(c.Metrics)); err != nil {
		return nil, fmt.Errorf("prepare backups: %w", err)
	}
	return made, nil
}

// limits of orders. They are bounds for a host that hangs, far above what an honest one takes.
const (
	// backupWithin is a terabyte at 50 MB/s.
	backupWithin = 6 * time.Hour
	// restoreWithin is the same: what is restored is read and checked in full.
	restoreWithin = 6 * time.Hour
	// undoWithin is for renames, of however many tables.
	undoWithin = 30 * time.Minute
	// startWithin is how long an order may wait for its turn on the host, besides: somebody waits for it.
	startWithin = 2 * time.Hour
	// undoFor is how long a host keeps what a restore replaced.
	undoFor = 24 * time.Hour
)
