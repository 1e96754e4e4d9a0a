package sdktest_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
	"chom.dev/proto/contract"
)

// TestMain lets the test's own binary be a plugin: see fakes.
func TestMain(m *testing.M) {
	if impl, ok := fakes[pluginName()]; ok {
		sdk.Serve(impl)
		return
	}
	os.Exit(m.Run())
}

func pluginName() string {
	name := filepath.Base(os.Args[0])
	if len(name) > len(host.BinaryPrefix) && name[:len(host.BinaryPrefix)] == host.BinaryPrefix {
		return name[len(host.BinaryPrefix):]
	}
	return name
}

// good is a site type that keeps every claim. The others break one each.
type good struct{ name string }

const (
	begun    = "private/begun"
	finished = "public/page.html"
)

func (g good) Describe() sdk.Description {
	siteType, err := contract.ParseSiteType(g.name)
	if err != nil {
		panic(err)
	}
	return sdk.Description{
		Type: siteType, Version: "1", DocumentRoot: "public",
		Settings: []sdk.Setting{
			{Name: "title", Type: sdk.String, Required: true, MaxLength: 20},
			{Name: "mood", Type: sdk.Enum, Values: []string{"good", "bad"}, Default: "good"},
			{Name: "mail", Type: sdk.Email},
			{Name: "loud", Type: sdk.Bool, Default: "false"},
		},
	}
}

func (g good) Install(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	if err := g.work(ctx, s, progress); err != nil {
		return sdk.State{}, err
	}
	return g.Check(ctx, s)
}

// work takes 60 ms in two steps, so that kills find it at it.
func (g good) work(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) error {
	for i, name := range []string{begun, finished} {
		path := filepath.Join(s.Tree, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		progress(sdk.Progress{Step: name, Fraction: float64(i) / 2})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
		// A kill may come between making a file and filling it.
		temp := filepath.Join(s.Tree, "private/temp")
		if err := os.WriteFile(temp, []byte(s.Settings["title"]), 0o640); err != nil {
			return err
		}
		if err := os.Rename(temp, path); err != nil {
			return err
		}
	}
	return nil
}

func (g good) Update(ctx context.Context, s sdk.Site) (sdk.State, error) {
	if state, err := g.Check(ctx, s); err != nil || !state.Installed {
		return state, errors.Join(err, sdk.ErrNotInstalled)
	}
	return g.Check(ctx, s)
}

func (good) Check(_ context.Context, s sdk.Site) (sdk.State, error) {
	_, err := os.Stat(filepath.Join(s.Tree, finished))
	return sdk.State{Installed: err == nil, Version: "1"}, nil
}

type (
	// fickle describes itself anew each time.
	fickle struct{ good }
	// boastful always finds itself installed.
	boastful struct{ good }
	// curious leaves a trace when it checks.
	curious struct{ good }
	// greedy replaces the customer's files.
	greedy struct{ good }
	// fragile can't go on where it was interrupted.
	fragile struct{ good }
	// deaf goes on after its caller left.
	deaf struct{ good }
	// loose lets everyone read and write.
	loose struct{ good }
	// restless changes something at every call.
	restless struct{ good }
	// eager updates what is not there.
	eager struct{ good }
	// coy offers logins and then makes none.
	coy struct{ good }
)

func (f fickle) Describe() sdk.Description {
	d := f.good.Describe()
	d.Version = time.Now().Format("150405.000000000")
	return d
}

func (boastful) Check(context.Context, sdk.Site) (sdk.State, error) {
	return sdk.State{Installed: true, Version: "1"}, nil
}

func (c curious) Check(ctx context.Context, s sdk.Site) (sdk.State, error) {
	if err := os.WriteFile(filepath.Join(s.Tree, "private/checked"), nil, 0o600); err != nil {
		return sdk.State{}, err
	}
	return c.good.Check(ctx, s)
}

func (g greedy) Install(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	if err := os.WriteFile(filepath.Join(s.Tree, "public/index.html"), []byte("ours"), 0o640); err != nil {
		return sdk.State{}, err
	}
	return g.good.Install(ctx, s, progress)
}

func (f fragile) Install(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	_, beginErr := os.Stat(filepath.Join(s.Tree, begun))
	_, finishErr := os.Stat(filepath.Join(s.Tree, finished))
	if beginErr == nil && finishErr != nil {
		return sdk.State{}, errors.New("begun exists")
	}
	return f.good.Install(ctx, s, progress)
}

func (d deaf) Install(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	return d.good.Install(context.WithoutCancel(ctx), s, func(p sdk.Progress) {
		progress(p)
		time.Sleep(400 * time.Millisecond)
	})
}

func (l loose) Install(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	state, err := l.good.Install(ctx, s, progress)
	return state, errors.Join(err, os.Chmod(filepath.Join(s.Tree, finished), 0o666))
}

func (r restless) Install(ctx context.Context, s sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	state, err := r.good.Install(ctx, s, progress)
	return state, errors.Join(err, r.stir(s))
}

func (r restless) Update(ctx context.Context, s sdk.Site) (sdk.State, error) {
	state, err := r.good.Update(ctx, s)
	return state, errors.Join(err, r.stir(s))
}

func (restless) stir(s sdk.Site) error {
	return os.WriteFile(filepath.Join(s.Tree, "private/stamp"), []byte(time.Now().String()), 0o600)
}

func (e eager) Update(ctx context.Context, s sdk.Site) (sdk.State, error) {
	return e.Check(ctx, s)
}

func (coy) ArmLogin(context.Context, sdk.Site, sdk.Login) error { return sdk.ErrUnsupported }

var fakes = map[string]sdk.SiteType{
	"good":     good{"good"},
	"fickle":   fickle{good{"fickle"}},
	"boastful": boastful{good{"boastful"}},
	"curious":  curious{good{"curious"}},
	"greedy":   greedy{good{"greedy"}},
	"fragile":  fragile{good{"fragile"}},
	"deaf":     deaf{good{"deaf"}},
	"loose":    loose{good{"loose"}},
	"restless": restless{good{"restless"}},
	"eager":    eager{good{"eager"}},

	"coy": coy{good{"coy"}},
}

// program makes the fake a real plugin with a process of its own.
func program(t *testing.T, name string) sdktest.Opener {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return sdktest.Binary(t, link)
}

func newSite(t *testing.T) (sdk.Site, host.User) {
	t.Helper()
	domain, err := contract.ParseDomain("example.com")
	if err != nil {
		t.Fatal(err)
	}
	user := host.User{Handle: contract.NewHandle(), UID: 1_765_432, GID: 1_765_432}
	return sdk.Site{
		Handle: user.Handle, Tree: sdktest.NewTree(t, user), Domain: domain,
		Settings: sdk.Settings{"title": "A title"},
	}, user
}

func TestSuiteAcceptsAGoodPlugin(t *testing.T) {
	sdktest.Suite{Open: program(t, "good"), NewSite: newSite}.Run(t)
}

func TestSuiteNamesWhatABadPluginBreaks(t *testing.T) {
	for name, breaks := range map[string]string{
		"fickle":   "describes itself validly and always the same",
		"boastful": "finds nothing on a fresh site and leaves it as it is",
		"curious":  "finds nothing on a fresh site and leaves it as it is",
		"greedy":   "leaves the customer's files alone",
		"fragile":  "finishes after being killed at any moment",
		"deaf":     "stops when the caller does and finishes later",
		"loose":    "makes files that only the site and its group can read",
		"restless": "installs twice without changing anything",
		"eager":    "refuses to work on what is not installed",
		"coy":      "arms logins that live a minute, or says it can't",
	} {
		t.Run(name, func(t *testing.T) {
			broken := sdktest.Suite{Open: program(t, name), NewSite: newSite, Only: breaks}.Broken(t)
			if broken[breaks] == nil {
				t.Errorf("the suite finds nothing wrong, want %q; it names %v", breaks, slices.Sorted(maps.Keys(broken)))
			}
		})
	}
}
