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
// A site answers to those of its names that its organization holds (served.go). Each of them is looked at in the DNS and by HTTP
// until it leads to the site (names.go, decide.go); then its certificate is ordered, and not before.
//
// When its host makes backups of it by itself follows from its tags and its organization's policies (package backup). Sites come to
// look when these change, a few at a time (schedule.go).
//
// Every query takes the organization. A site of another organization does not exist.
package site

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
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
	// Tags are words that its organization sorts it by, in the order of the alphabet.
	Tags []string
	// Policy is the backup policy that was chosen for it; the zero value lets its tags choose.
	Policy contract.PolicyID
	// Served are the names that its host answers to in this generation, the primary one first.
	Served    []contract.Domain
	Observed  *Observed // nil before the first report
	State     State
	Problem   string // why it is FAILED or differs from what is wanted, and when that is tried again
	LastTask  string // id of its newest task, empty when there never was one
	CreatedAt time.Time
	UpdatedAt time.Time
	TrashedAt time.Time // zero when it is not in the trash
	PurgeAt   time.Time // zero when it is not in the trash

	certificates  certificates
	lastTaskState task.State // of LastTask; empty when there is none
	owner         organization.State
	revision      int64     // of the policies that its schedule follows from; 0 where it follows from none
	failures      int       // of tasks for this generation, in a row
	againAt       time.Time // when it is ordered again by itself; zero when its last task has not failed
}

// Wanted is everything that a host needs to know of a site.
type Wanted struct {
	Type       contract.SiteType
	Generation uint64
	Phase      Phase
	Frozen     bool              // its organization is closing: its host suspends it, whatever the phase
	Domains    []contract.Domain // the primary one first, which is no wildcard; at least one
	Redirects  []contract.Domain // those of Domains that send visitors on to the primary one
	HTTPS      HTTPS
	Settings   map[string]string
	Limits     Limits
	Archive    *Archive // nil for types that install no application
	Schedule   Schedule // of backups that its host makes by itself
}

// Schedule says when a site's host makes backups of it by itself: at each moment that lies Offset after a multiple of Interval since
// 1970-01-01T00:00:00Z. Its zero value means never.
type Schedule struct {
	Interval, Offset time.Duration
}

// HTTPS says how a site is served by HTTPS, which it is as soon as its names have certificates.
type HTTPS struct {
	// HSTS is how long browsers are told to come by HTTPS only, in seconds; 0 tells them nothing.
	HSTS uint32
	// KeepHTTP serves plain HTTP too, instead of sending visitors on.
	KeepHTTP bool
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
	// Certificates are what the host's handshakes met, one for each name; empty where nothing is served by HTTPS.
	Certificates []Certificate
}

// Certificate is what a TLS handshake for one name met, and how getting the next one goes.
type Certificate struct {
	Name      string
	Valid     bool // for the name, when it was measured, and trusted
	Source    Source
	Issuer    string
	SHA256    []byte // empty when the handshake met none
	NotBefore time.Time
	NotAfter  time.Time
	Problem   string    // empty when all is well
	NextTry   time.Time // zero when there is none
	Failures  uint32    // since the last success
}

// Source is where a certificate comes from.
type Source string

// Sources.
const (
	NoCertificate Source = ""
	ACME          Source = "acme"
	Uploaded      Source = "uploaded"
	Platform      Source = "platform"
)

// onHost is the phase that the host is ordered to bring about.
func (w Wanted) onHost() Phase {
	if w.Frozen && w.Phase == Active {
		return Suspended
	}
	return w.Phase
}

// URL is the address of the home page at a moment: by HTTPS if the host was found to serve it with a valid certificate. One
// that the platform handed out counts for the preview name only.
func (s *Site) URL(now time.Time) string {
	name := s.Served[0].String()
	if c := s.Observed.certificate(name); c != nil && c.good(now) && (c.Source != Platform || name == s.Preview()) {
		return "https://" + name + "/"
	}
	return "http://" + name + "/"
}

// Desired is what is wanted of it, as its host is told.
func (s *Site) Desired() *sitev1.DesiredState { return s.desired() }

// Living refuses a site that was deleted, restorable or not.
func (s *Site) Living() error { return living(s) }

// Changeable refuses a site that is not living, or whose organization is closing.
func (s *Site) Changeable() error { return changeable(s) }

// HasDatabase says whether sites of its type keep anything in one.
func (s *Site) HasDatabase() bool {
	kind, err := parseType(s.Wanted.Type.String())
	return err == nil && kind.installs
}

// ETag names what is wanted of the site: it changes with each change of that, and with nothing that happens on the host.
func (s *Site) ETag() string {
	tag := strconv.FormatUint(s.Wanted.Generation, 10)
	if len(s.Tags) == 0 && s.Policy.IsZero() {
		return tag
	}
	// Its host may have nothing to learn from a change of these.
	sum := sha256.Sum256([]byte(strings.Join(s.Tags, " ") + "\n" + s.Policy.String()))
	return tag + "x" + hex.EncodeToString(sum[:8])
}

// Errors.
var (
	ErrNotFound   = fault.NotFound("site")
	ErrNameTaken  = fault.Conflict("the organization has a site with this name already")
	ErrRequestID  = fault.Conflict("request_id: this id was used for another request already")
	ErrInTrash    = fault.Conflict("the site is in the trash: restore it first")
	ErrNotInTrash = fault.Conflict("the site is not in the trash")
	ErrChanged    = fault.Changed("the site was changed meanwhile: look at it again, then decide anew")
	ErrPurging    = fault.Conflict("the site is being removed for good")
	// ErrNoPolicy says that the organization has not the backup policy which is to be chosen.
	ErrNoPolicy = fault.NotFound("backup policy")

	errChecking = fault.Limited("the organization checks a site already: try again when that is done", checkWithin)
)

// DefaultBudget is more than customers need who do not move a hundred sites in a week. Let's Encrypt takes 300 orders of one
// account in three hours.
const DefaultBudget = 100

// DefaultTrashPeriod is how long a deleted site can be restored.
const DefaultTrashPeriod = 7 * 24 * time.Hour

// Config is what an operator decides about sites.
type Config struct {
	// TrashPeriod is how long a deleted site can be restored; 0 means DefaultTrashPeriod.
	TrashPeriod time.Duration
	// WordPress is the release that new WordPress sites get; nil where there is none, and then none can be made.
	WordPress *Archive
	// AnyName has sites answer to whatever name they are given, if no other site has it: for a platform whose customers trust
	// each other.
	AnyName bool
	// PreviewDomain is one of the platform's own, below which each site has a preview name; empty for sslip.io, which needs none.
	PreviewDomain string
	// Budget is how many names of an organization may begin to get certificates in seven days; 0 means DefaultBudget. It keeps one
	// tenant from using up what the CA gives to the platform.
	Budget int
	// CAs are the names by which the CAs that hosts order from know themselves in CAA records, such as letsencrypt.org. Where it is
	// empty, nobody's CAA records are looked at.
	CAs []string
	// Resolver asks the DNS for names of sites; nil has none of them found ready.
	Resolver Resolver
	// Dialer reaches addresses that the DNS gave; nil reaches none.
	Dialer Dialer
	// PublicAddress says whether names may be led to an address; nil means outbound.Public. What a host knows of its own addresses
	// may be true in its network only.
	PublicAddress func(netip.Addr) bool
	// HTTPPort is where hosts are asked whether a name leads to them; 0 means 80, which is where a CA asks.
	HTTPPort uint16

	// What follows are things that other nouns know and do; each may be nil.

	// Provider says whether a name is in a zone of a DNS provider that the organization connected.
	Provider func(ctx context.Context, q db.Querier, organization contract.OrganizationID, name contract.Domain) (bool, error)
	// RecordsTopic is what Listen hears when records were made for an organization, whose id is the payload.
	RecordsTopic string
	// ProvidersTopic is what it hears likewise when an organization has connected a DNS provider.
	ProvidersTopic string
	// WantAddresses has the organization's DNS providers lead a site's names to addresses; it is told all of both in each change,
	// and none once the site is gone.
	WantAddresses func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, names []contract.Domain, addresses []netip.Addr) error
	// HasPolicy says whether an organization has a backup policy, and keeps it until the transaction ends.
	HasPolicy func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.PolicyID) (bool, error)
	// Schedule says when the host of a site makes backups of it, as its organization's policies are now. It is nil where no backups
	// are made.
	Schedule func(ctx context.Context, tx *db.Tx, site *Site) (Schedule, error)
	// ScheduleRevision is another one whenever Schedule says another thing for reasons that no organization has to do with; it is added
	// to the revision of an organization's policies, and a multiple of 2^32.
	ScheduleRevision int64
	// PoliciesTopic is what Listen hears when an organization's policies have changed.
	PoliciesTopic string
	// Uploads are the certificates that were uploaded for a site.
	Uploads func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID) ([]Upload, error)
	// Measured takes in what a host measured of a site's certificates.
	Measured Measured
	// Outside is what the control plane measured itself of the certificates of a site's names.
	Outside func(ctx context.Context, q db.Querier, organization contract.OrganizationID, site contract.SiteID) ([]OutsideCertificate, error)
	// CheckOutside measures that now, for the names that are given, until ctx ends.
	CheckOutside func(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, names []contract.Domain) error
}

// Sites keeps them. It is safe for concurrent use.
type Sites struct {
	db     *db.DB
	tasks  *task.Tasks
	log    *slog.Logger
	config Config
	looks  chan struct{} // a place for each look at a name that goes on
	wake   chan struct{} // names are due now

	checking checks
	glances  glances

	hints sync.Mutex
	made  []string // organizations for which records were made since the last look
}

// New keeps sites in a database. Run must run beside it, and tasks must call Ended.
func New(d *db.DB, tasks *task.Tasks, log *slog.Logger, c Config) *Sites {
	c.TrashPeriod = cmp.Or(c.TrashPeriod, DefaultTrashPeriod)
	c.Budget, c.HTTPPort = cmp.Or(c.Budget, DefaultBudget), cmp.Or(c.HTTPPort, 80)
	if c.PublicAddress == nil {
		c.PublicAddress = outbound.Public
	}
	return &Sites{
		db: d, tasks: tasks, log: log, config: c, looks: make(chan struct{}, looksAtOnce), wake: make(chan struct{}, 1),
		glances: glances{of: map[contract.Domain]glance{}, wanted: make(chan contract.Domain, glancesAhead)},
	}
}
