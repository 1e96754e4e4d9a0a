// Package site is the websites: what each is, what may happen to it, and what its host is ordered to make of it.
//
// Three things are kept apart. What is wanted is a row here, numbered by its generation. What is the case is what the agent
// measured and reported. What is on its way is a task. A site's state, as people see it, is derived from the three and
// stored nowhere (state.go):
//
//	           +---- Suspend ----> SUSPENDED ----+
//	           |                       |         |
//	CREATING -> ACTIVE <--- Resume ----+         |
//	    |      |  ^                              |
//	    |      |  +------- Restore -----+        |
//	    |    Delete                     |        |
//	    +------+--------> TRASHED ------+ <------+
//	                         |
//	                      7 days
//	                         v
//	                      DELETING --> gone: no row, its names are free
//
//	UPDATING  a change of an ACTIVE or SUSPENDED site is on its way
//	FAILED    the host could not be brought to what is wanted; Problem says why, and when it is tried again by itself. Each
//	          change, and each Hello of the agent, tries at once.
//
// The sites of an organization that is closing are frozen: their hosts suspend them whatever their phase is, nobody but Suspend
// and Delete changes them, and they go on as they were when it is reopened (freeze.go).
//
// Each change gives the whole wanted state a new generation, writes it and the task that carries it out in one transaction,
// and answers. A generation is above the former one and above what the host was last seen to hold, so that a host which knows
// more than a restored database is never asked to go back in silence.
//
// Every query takes the organization. A site of another organization does not exist.
package site

import (
	"cmp"
	"log/slog"
	"strconv"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// Phase is what a site is wanted to be, or was found to be, on its host.
type Phase string

// Phases.
const (
	Active    Phase = "active"
	Suspended Phase = "suspended"
	Trashed   Phase = "trashed"
	Absent    Phase = "absent"
)

// Site is one hosted website.
type Site struct {
	Organization contract.OrganizationID
	ID           contract.SiteID
	Handle       contract.Handle
	Server       contract.ServerID
	Name         string
	Wanted       Wanted
	Observed     *Observed // nil before the first report
	State        State
	Problem      string // why it is FAILED or differs from what is wanted, and when that is tried again
	LastTask     string // id of its newest task, empty when there never was one
	CreatedAt    time.Time
	UpdatedAt    time.Time
	TrashedAt    time.Time // zero when it is not in the trash
	PurgeAt      time.Time // zero when it is not in the trash

	lastTaskState task.State // of LastTask; empty when there is none
	owner         organization.State
	failures      int       // of tasks for this generation, in a row
	againAt       time.Time // when it is ordered again by itself; zero when its last task has not failed
}

// Wanted is everything that a host needs to know of a site.
type Wanted struct {
	Type       contract.SiteType
	Generation uint64
	Phase      Phase
	Frozen     bool              // its organization is closing: its host suspends it, whatever the phase
	Domains    []contract.Domain // the primary one first, at least one
	Settings   map[string]string
	Limits     Limits
	Archive    *Archive // nil for types that install no application
}

// Limits bound what a site takes of its host; zeros mean the agent's defaults.
type Limits struct {
	CPUPercent  uint32 // of one core
	MemoryBytes uint64
	Tasks       uint32
	PHPWorkers  uint32
}

// Archive names an application's release file.
type Archive struct {
	Version string
	URL     string
	SHA256  [32]byte
}

// Observed is what an agent measured of a site. It is shown and compared; no right follows from it.
type Observed struct {
	Generation uint64
	Phase      Phase // empty when the agent named none
	HTTPStatus uint32
	PageTitle  string
	AppVersion string
	PHPVersion string
	At         time.Time
	Problem    string
}

// onHost is the phase that the host is ordered to bring about.
func (w Wanted) onHost() Phase {
	if w.Frozen && w.Phase == Active {
		return Suspended
	}
	return w.Phase
}

// URL is the address of the home page.
func (s *Site) URL() string { return "http://" + s.Wanted.Domains[0].String() + "/" }

// ETag names what is wanted of the site: it changes with each change of that, and with nothing that happens on the host.
func (s *Site) ETag() string { return strconv.FormatUint(s.Wanted.Generation, 10) }

// Errors.
var (
	ErrNotFound   = fault.NotFound("site")
	ErrNameTaken  = fault.Conflict("the organization has a site with this name already")
	ErrRequestID  = fault.Conflict("request_id: this id was used for another request already")
	ErrInTrash    = fault.Conflict("the site is in the trash: restore it first")
	ErrNotInTrash = fault.Conflict("the site is not in the trash")
	ErrChanged    = fault.Changed("the site was changed meanwhile: look at it again, then decide anew")
	ErrPurging    = fault.Conflict("the site is being removed for good")
)

// DefaultTrashPeriod is how long a deleted site can be restored.
const DefaultTrashPeriod = 7 * 24 * time.Hour

// Config is what an operator decides about sites.
type Config struct {
	// TrashPeriod is how long a deleted site can be restored; 0 means DefaultTrashPeriod.
	TrashPeriod time.Duration
	// WordPress is the release that new WordPress sites get; nil where there is none, and then none can be made.
	WordPress *Archive
}

// Sites keeps them. It is safe for concurrent use.
type Sites struct {
	db     *db.DB
	tasks  *task.Tasks
	log    *slog.Logger
	config Config
}

// New keeps sites in a database. Run must run beside it, and tasks must call Ended.
func New(d *db.DB, tasks *task.Tasks, log *slog.Logger, c Config) *Sites {
	c.TrashPeriod = cmp.Or(c.TrashPeriod, DefaultTrashPeriod)
	return &Sites{db: d, tasks: tasks, log: log, config: c}
}
