// Package site brings one site of this host to its desired state, whatever
// both are. It is where user, tree, database, PHP, application, timers and nginx
// are put into an order that never shows a visitor something half done:
//
//	ACTIVE     user, tree, slice, archive, database, php, application, cron, certificate, nginx
//	SUSPENDED  nginx (503 page), cron, php, processes
//	TRASHED    nginx (gone), cron, php, processes; files, database and certificates stay
//	ABSENT     as TRASHED, then certificates, keys of backups, tree, database, slice, user: nothing is left
//
// A site can also be made what it was at a backup: see Restore; whether it could be,
// Drill finds out beside it. Backups are made by order, and by the host itself as the
// sites' schedules have it: see KeepSchedules. What a site takes of the disk Size measures,
// as its user and after everybody else.
//
// Certificates other than that of the preview name come later, from package
// certificate, and are taken into use by Secure.
//
// Each step can probe whether it is done, so the whole can be killed anywhere
// and done again. What an application needs and is, only its plugin knows; a
// plugin runs as the site's user and never sees the steps.
//
// Not here: which order comes when (package task), and installing the software
// itself (package server).
package site

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"chom.dev/agent/backup"
	"chom.dev/agent/certificate"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/nginx"
	"chom.dev/agent/php"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// Sites is the host's part of all sites. Make it with New.
type Sites struct {
	systemd  *systemd.Host
	nginx    *nginx.Manager
	php      *php.Manager
	mariadb  *mariadb.Server
	certs    *certificate.Manager
	backups  *backup.Manager
	fresh    *fresh
	shown    *shown
	plugins  *host.Host
	shells   tree.Shells
	archives *archives
	restores *restores
	drills   *drills
	agent    string // our own program, for the helper that empties trees
	log      *slog.Logger
}

// New gives the handlers of site orders on this host. Nothing is touched yet.
func New(sd *systemd.Host, web *nginx.Manager, fpm *php.Manager, db *mariadb.Server, certs *certificate.Manager, backups *backup.Manager, log *slog.Logger) (*Sites, error) {
	plugins, err := host.New(host.Config{Starter: starter{sd}, Logger: log})
	if err != nil {
		return nil, err
	}
	agent, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &Sites{
		systemd: sd, nginx: web, php: fpm, mariadb: db, certs: certs, backups: backups, fresh: newFresh(), shown: newShown(),
		plugins:  plugins,
		shells:   tree.Host(),
		restores: &restores{restoreJournal{RestoreDir}, tree.Host(), db, mariadb.Socket, sd, agent},
		drills:   &drills{tree.Host(), sd, backups, agent, mariadb.Socket, phpRuns},
		archives: newArchives(ArchiveDir),
		agent:    agent,
		log:      log,
	}, nil
}

// Converge handles CONVERGE_SITE.
func (s *Sites) Converge() task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		c, err := s.parse(o, o.Message.GetConvergeSite().GetDesired())
		if err != nil {
			return task.Plan{}, err
		}
		plan := task.Plan{Observe: c.observe, End: c.endPlugin}
		switch c.desired.GetPhase() {
		case sitev1.Phase_PHASE_ACTIVE:
			plan.Steps = c.activate()
		case sitev1.Phase_PHASE_SUSPENDED:
			plan.Steps = c.suspend()
		case sitev1.Phase_PHASE_TRASHED:
			plan.Steps = c.trash()
		case sitev1.Phase_PHASE_ABSENT:
			plan.Steps = c.remove()
		default:
			return task.Plan{}, fmt.Errorf("phase %s is not one that a host can bring about", c.desired.GetPhase())
		}
		return plan, nil
	})
}

// Login handles SITE_LOGIN.
func (s *Sites) Login() task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		c, err := s.parse(o, o.Site.Desired)
		if err != nil {
			return task.Plan{}, err
		}
		if !c.needs.OffersLogin {
			return task.Plan{}, fmt.Errorf("sites of type %s have no administrator to log in as", c.typ)
		}
		if p := c.desired.GetPhase(); p != sitev1.Phase_PHASE_ACTIVE {
			return task.Plan{}, fmt.Errorf("the site is %s", p)
		}
		return task.Plan{Steps: []task.Step{c.armLogin(o.Message)}, End: c.endPlugin}, nil
	})
}

// converge is one attempt at one site.
type converge struct {
	*Sites
	site    task.Site
	desired *sitev1.DesiredState
	handle  contract.Handle
	uid     int
	typ     contract.SiteType
	domains []contract.Domain
	onward  []contract.Domain // those of domains that send visitors on to the first
	needs   sdk.Description
	release php.Installed // of types that need PHP

	// session is the plugin of this attempt; nil before it was started.
	session *host.Session
	// starting gives it, or nil, once a start that was made ahead is over.
	starting chan *host.Session
	// state is what it measured; nil before it did.
	state *sdk.State
}

// parse turns an order into typed values. What does not parse is refused
// before anything is touched.
func (s *Sites) parse(o task.Order, desired *sitev1.DesiredState) (*converge, error) {
	c := &converge{Sites: s, site: o.Site, desired: desired, handle: o.Site.Handle, uid: int(o.Site.UID)}
	if desired == nil || c.handle.IsZero() {
		return nil, errors.New("this host does not know the site")
	}
	var err error
	if c.typ, err = contract.ParseSiteType(desired.GetType()); err != nil {
		return nil, err
	}
	if c.domains, err = parseDomains(desired.GetDomains()); err != nil {
		return nil, err
	}
	if len(c.domains) == 0 || c.domains[0].IsWildcard() {
		return nil, errors.New("the site has no main domain")
	}
	if c.onward, err = parseDomains(desired.GetRedirectDomains()); err != nil {
		return nil, err
	}
	for _, d := range c.onward {
		if d == c.domains[0] || d.IsWildcard() || !slices.Contains(c.domains, d) {
			return nil, fmt.Errorf("domain %s cannot lead to the main one", d)
		}
	}
	// A site whose plugin is gone must still be stoppable and removable.
	if c.needs, err = s.plugins.Describe(c.typ); err != nil && desired.GetPhase() == sitev1.Phase_PHASE_ACTIVE {
		return nil, err
	}
	if c.needs.NeedsPHP {
		if c.release, err = distributionPHP(); err != nil {
			return nil, err
		}
	}
	if c.needs.NeedsArchive && desired.GetPhase() == sitev1.Phase_PHASE_ACTIVE && desired.GetArchive() == nil {
		return nil, fmt.Errorf("sites of type %s need an archive, and the order names none", c.typ)
	}
	return c, nil
}

func parseDomains(names []string) ([]contract.Domain, error) {
	var out []contract.Domain
	for _, name := range names {
		d, err := contract.ParsePattern(name)
		if err != nil {
			return nil, fmt.Errorf("domain %q: %w", name, err)
		}
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out, nil
}

// distributionPHP is the release that sites get: the distribution's, which is
// the only one on a host.
func distributionPHP() (php.Installed, error) {
	found, err := php.Find()
	if err != nil {
		return php.Installed{}, err
	}
	if len(found) == 0 {
		return php.Installed{}, fmt.Errorf("%w: the server is not prepared", php.ErrNotInstalled)
	}
	return found[len(found)-1], nil
}

// web is the site as nginx is to serve it.
func (c *converge) web() nginx.Site {
	kind := nginx.Static
	if c.needs.NeedsPHP {
		kind = nginx.PHP
	}
	s := nginx.Site{
		Handle:       c.handle,
		Domains:      c.domains,
		Redirects:    c.onward,
		Kind:         kind,
		Suspended:    c.desired.GetPhase() == sitev1.Phase_PHASE_SUSPENDED,
		Restoring:    c.restores.switching(c.handle),
		Certificates: map[contract.Domain]nginx.Certificate{},
		HSTS:         time.Duration(c.desired.GetHttps().GetHstsMaxAgeSeconds()) * time.Second,
		KeepHTTP:     c.desired.GetHttps().GetKeepHttp(),
	}
	for name, served := range c.certs.Paths(c.handle, c.domains) {
		s.Certificates[name] = nginx.Certificate(served)
	}
	return s
}

// https says whether visitors come to the home page by HTTPS.
func (c *converge) https() bool {
	return !c.desired.GetHttps().GetKeepHttp() && c.certs.Paths(c.handle, c.domains[:1])[c.domains[0]].Trusted
}

// application is the site as its plugin may know it.
func (c *converge) application() sdk.Site {
	s := sdk.Site{
		Handle:   c.handle,
		Tree:     tree.Shell(c.handle),
		Domain:   c.domains[0],
		HTTPS:    c.https(),
		Settings: c.desired.GetSettings(),
	}
	if c.needs.NeedsPHP {
		s.PHP = c.release.CLI
	}
	if c.needs.NeedsDatabase {
		s.Database = &sdk.Database{Name: c.handle.DBName(), User: c.handle.UnixUser(), Socket: mariadb.Socket}
	}
	if a := c.desired.GetArchive(); c.needs.NeedsArchive && a != nil {
		s.Archive = &sdk.Archive{Path: c.archives.path(a.GetSha256()), SHA256: fmt.Sprintf("%x", a.GetSha256())}
	}
	return s
}
