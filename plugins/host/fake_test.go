package host_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
	"chom.dev/proto/contract"
)

// The test's own binary is the plugin too: under the name of a fake it behaves
// like it.
func TestMain(m *testing.M) {
	name := strings.TrimPrefix(filepath.Base(os.Args[0]), host.BinaryPrefix)
	if run, ok := fakes[name]; ok {
		run(name)
		return
	}
	os.Exit(m.Run())
}

var fakes = map[string]func(name string){
	"honest":   func(name string) { sdk.Serve(fake{name: name}) },
	"stubborn": func(name string) { sdk.Serve(fake{name: name}); exceptDescribe(func() { select {} }) },
	"slow":     func(name string) { sdk.Serve(fake{name: name, check: hang}) },
	"chatty":   func(name string) { sdk.Serve(fake{name: name, check: chat}) },
	"panicky":  func(name string) { sdk.Serve(fake{name: name, check: func() sdk.State { panic("at the disco") }}) },
	"teller":   func(name string) { sdk.Serve(fake{name: name, check: tell}) },

	// These never get as far as serving.
	"silent":  instead(func() { time.Sleep(time.Hour) }), // not select {}: without cgo that is a deadlock, and ends
	"crash":   instead(func() { os.Exit(7) }),
	"garbled": instead(func() { fmt.Println("hello, agent"); time.Sleep(time.Hour) }),
	"tcp":     instead(func() { fmt.Println("1|1|tcp|127.0.0.1:1|grpc|"); time.Sleep(time.Hour) }),
	"elsewhere": instead(func() {
		fmt.Println("1|1|unix|/run/systemd/private|grpc|")
		time.Sleep(time.Hour)
	}),
	"linker": instead(func() {
		link := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "plugin1")
		if err := os.Symlink("/run/systemd/private", link); err != nil {
			panic(err)
		}
		fmt.Println("1|1|unix|" + link + "|grpc|")
		time.Sleep(time.Hour)
	}),
	"future": instead(func() { fmt.Println("1|99|unix|/x|grpc|"); time.Sleep(time.Hour) }),
}

func instead(run func()) func(string) {
	return func(name string) {
		if len(os.Args) == 2 { // describe
			sdk.Serve(fake{name: name})
			return
		}
		run()
	}
}

func exceptDescribe(run func()) {
	if len(os.Args) == 1 {
		run()
	}
}

// fake is a site type without a site.
type fake struct {
	name  string
	check func() sdk.State
}

func (f fake) Describe() sdk.Description {
	siteType, err := contract.ParseSiteType(f.name)
	if err != nil {
		panic(err)
	}
	return sdk.Description{Type: siteType, Version: "1", DocumentRoot: "public"}
}

func (f fake) Install(_ context.Context, _ sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	progress(sdk.Progress{Step: "one", Message: "half \x1b[31mway", Fraction: 0.5})
	return sdk.State{Installed: true}, nil
}

func (f fake) Update(context.Context, sdk.Site) (sdk.State, error) {
	return sdk.State{}, &sdk.FieldError{Field: "settings.title", Reason: "is ugly"}
}

func (f fake) Check(context.Context, sdk.Site) (sdk.State, error) {
	if f.check != nil {
		return f.check(), nil
	}
	return sdk.State{}, nil
}

func (f fake) ArmLogin(context.Context, sdk.Site, sdk.Login) error { return nil }

func hang() sdk.State { select {} }

func chat() sdk.State {
	for i := range 100_000 {
		slog.Info("so much to say", "i", i)
	}
	fmt.Println("stdout too", strings.Repeat("x", 1<<20))
	return sdk.State{}
}

// tell returns what the process sees of its surroundings.
func tell() sdk.State {
	var findings []sdk.Finding
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		findings = append(findings, sdk.Finding{Code: name, Severity: sdk.Notice, Message: value})
	}
	groups, err := os.Getgroups()
	return sdk.State{
		Installed: err == nil,
		Version:   fmt.Sprintf("uid %d gid %d groups %v", os.Geteuid(), os.Getegid(), groups),
		Findings:  findings,
	}
}

// installFake gives a host that knows the fake.
func installFake(t *testing.T, name string) (*host.Host, contract.SiteType, *sdktest.Starter) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return sdktest.Install(t, link)
}

// siteUser is nobody that the machine knows.
func siteUser() host.User {
	return host.User{Handle: contract.NewHandle(), UID: 1_654_321, GID: 1_654_322}
}

func site(t *testing.T, user host.User) sdk.Site {
	t.Helper()
	domain, err := contract.ParseDomain("example.com")
	if err != nil {
		t.Fatal(err)
	}
	return sdk.Site{Handle: user.Handle, Tree: sdktest.NewTree(t, user), Domain: domain}
}

func alive(t *testing.T, pid int) bool {
	t.Helper()
	return exec.Command("/usr/bin/test", "-d", fmt.Sprintf("/proc/%d", pid)).Run() == nil
}
