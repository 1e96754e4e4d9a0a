// Package sdktest holds the behaviour that every site type plugin must show,
// as a suite to run from the plugin's own tests:
//
//	func TestPlugin(t *testing.T) {
//		sdktest.Suite{
//			Open:    sdktest.Program(t, "chom.dev/plugins/static"),
//			NewSite: newSite,
//		}.Run(t)
//	}
//
// Each claim works on fresh sites and speaks to the plugin over the real wire:
// InProcess through a gRPC pair, Program through package host, as another user,
// with a process that can be killed. It proves no sandbox: that is the agent's.
package sdktest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
)

// Suite is the plugin under test.
type Suite struct {
	// Open starts the plugin for a site's user.
	Open Opener
	// NewSite makes a fresh site with all that the type needs. Its tree
	// should come from NewTree. What it makes is removed when the test ends.
	NewSite func(t *testing.T) (sdk.Site, host.User)
	// Differs lists paths relative to the tree whose content rightly differs
	// from one installation to the next, such as generated keys.
	Differs []string
	// Halfway, if set, is called after every kill of an installation: nothing
	// that it finds below the document root may serve a half-made site.
	Halfway func(ctx context.Context, site sdk.Site) error
	// Kills is how many installations are killed at moments spread evenly over
	// their duration, besides two in each of their steps; default 4.
	Kills int
	// Only runs the claim of this name alone.
	Only string
}

// Opener starts a plugin and returns a connection to it.
type Opener func(ctx context.Context, user host.User) (Conn, error)

// Conn is a running plugin; *host.Session is one.
type Conn interface {
	Describe(ctx context.Context) (sdk.Description, error)
	Install(ctx context.Context, site sdk.Site, progress func(sdk.Progress)) (sdk.State, error)
	Update(ctx context.Context, site sdk.Site) (sdk.State, error)
	Check(ctx context.Context, site sdk.Site) (sdk.State, error)
	ArmLogin(ctx context.Context, site sdk.Site, login sdk.Login) error
	Close()
}

// Killer is a Conn whose process can be killed; InProcess gives none, and
// claims about kills cancel the call instead.
type Killer interface {
	Conn
	KillNow()
}

// claim is one sentence about every plugin, and how to tell whether it is true.
type claim struct {
	name  string
	check func(b *bench) error
}

var claims = []claim{
	{"describes itself validly and always the same", describes},
	{"finds nothing on a fresh site and leaves it as it is", checksFresh},
	{"refuses to work on what is not installed", refusesUninstalled},
	{"installs and then finds itself installed", installs},
	{"installs twice without changing anything", installsTwice},
	{"finishes after being killed at any moment", survivesKills},
	{"stops when the caller does and finishes later", survivesCancel},
	{"refuses hostile settings, naming the field", refusesSettings},
	{"refuses incomplete sites, naming the field", refusesSites},
	{"refuses a damaged archive and can be asked again", refusesArchive},
	{"leaves the customer's files alone", sparesFiles},
	{"makes files that only the site and its group can read", makesSafeFiles},
	{"updates twice with the same outcome", updatesTwice},
	{"arms logins that live a minute, or says it can't", armsLogins},
}

// Run runs every claim as a subtest.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	for _, c := range claims {
		if s.Only != "" && s.Only != c.name {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if err := s.try(t, c); err != nil {
				t.Error(err)
			}
		})
	}
}

// Broken returns what each claim that does not hold has to say, by its name.
// It is how the suite itself is tested.
func (s Suite) Broken(t *testing.T) map[string]error {
	t.Helper()
	broken := map[string]error{}
	for _, c := range claims {
		if s.Only != "" && s.Only != c.name {
			continue
		}
		if err := s.try(t, c); err != nil {
			broken[c.name] = err
		}
	}
	return broken
}

func (s Suite) try(t *testing.T, c claim) (err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // one claim on a slow machine
	defer cancel()
	return c.check(&bench{t: t, ctx: ctx, suite: s})
}

// bench is what a claim works with.
type bench struct {
	t     *testing.T
	ctx   context.Context
	suite Suite
}

// visit opens the plugin for the site's user and closes it after use.
func (b *bench) visit(user host.User, use func(Conn) error) error {
	conn, err := b.suite.Open(b.ctx, user)
	if err != nil {
		return fmt.Errorf("open plugin: %w", err)
	}
	defer conn.Close()
	return use(conn)
}

// installed makes a site and installs into it.
func (b *bench) installed() (sdk.Site, host.User, sdk.State, error) {
	site, user := b.suite.NewSite(b.t)
	state, err := b.install(site, user)
	return site, user, state, err
}

func (b *bench) install(site sdk.Site, user host.User) (state sdk.State, err error) {
	err = b.visit(user, func(c Conn) error {
		state, err = c.Install(b.ctx, site, nil)
		return err
	})
	if err != nil {
		return state, fmt.Errorf("install: %w", err)
	}
	if !state.Installed {
		return state, fmt.Errorf("install succeeded but the site is not installed: %+v", state)
	}
	return state, nil
}

func (b *bench) check(site sdk.Site, user host.User) (state sdk.State, err error) {
	err = b.visit(user, func(c Conn) error {
		state, err = c.Check(b.ctx, site)
		return err
	})
	if err != nil {
		return state, fmt.Errorf("check: %w", err)
	}
	return state, nil
}

// blames reports whether the error names the field.
func blames(err error, field string) error {
	var blamed *sdk.FieldError
	switch {
	case err == nil:
		return fmt.Errorf("accepted, should be refused naming %s", field)
	case !errors.As(err, &blamed):
		return fmt.Errorf("refused without naming %s: %w", field, err)
	case blamed.Field != field:
		return fmt.Errorf("refused naming %s (%s), should name %s", blamed.Field, blamed.Reason, field)
	}
	return nil
}
