package sdktest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-plugin"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// InProcess serves the type in the test's own process, over a real gRPC
// connection. There is no other user and nothing to kill.
func InProcess(t *testing.T, impl sdk.SiteType) Opener {
	return func(context.Context, host.User) (Conn, error) {
		client, server := plugin.TestPluginGRPCConn(t, false, sdk.Plugins(impl)[sdk.ProtocolVersion])
		dispensed, err := client.Dispense(sdk.PluginName)
		if err != nil {
			return nil, err
		}
		return &inProcess{Client: dispensed.(*sdk.Client), close: func() {
			_ = client.Close() // a connection within the process: nothing to lose
			server.Stop()
		}}, nil
	}
}

type inProcess struct {
	*sdk.Client
	close func()
}

func (p *inProcess) Close() { p.close() }

// Install gives a plugin that is done in a moment no chance to outrun a
// cancelled call.
func (p *inProcess) Install(ctx context.Context, site sdk.Site, progress func(sdk.Progress)) (sdk.State, error) {
	if err := ctx.Err(); err != nil {
		return sdk.State{}, err
	}
	return p.Client.Install(ctx, site, progress)
}

// Program builds the main package and runs it through package host, as the
// site's user. The test must run as root.
func Program(t *testing.T, pkg string) Opener {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "built")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, pkg)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return Binary(t, binary)
}

// Binary is Program for a program that is built already.
func Binary(t *testing.T, path string) Opener {
	t.Helper()
	h, siteType, starter := Install(t, path)
	return func(ctx context.Context, user host.User) (Conn, error) {
		session, err := h.Open(ctx, user, siteType)
		if err != nil {
			return nil, err
		}
		return &process{Session: session, starter: starter}, nil
	}
}

type process struct {
	*host.Session
	starter *Starter
}

func (p *process) KillNow() { p.starter.KillLast() }

// Install puts a plugin's program where a Host finds it, as a package would:
// with its description and a list of checksums.
func Install(t *testing.T, path string) (*host.Host, contract.SiteType, *Starter) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("running a plugin as a site's user needs root")
	}
	description, err := exec.CommandContext(t.Context(), path, "describe").Output()
	if err != nil {
		t.Fatalf("%s describe: %v", path, err)
	}
	_, rest, _ := strings.Cut(string(description), `"type": "`)
	name, _, _ := strings.Cut(rest, `"`)
	siteType, err := contract.ParseSiteType(name)
	if err != nil {
		t.Fatalf("%s describe: %v", path, err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortTempDir(t)
	if err := os.Chmod(dir, 0o755); err != nil { // the site's user must reach it
		t.Fatal(err)
	}
	var sums strings.Builder
	for _, f := range []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{
		{host.BinaryPrefix + name, program, 0o755},
		{host.BinaryPrefix + name + host.DescriptionSuffix, description, 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.content, f.mode); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(f.content)
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), f.name)
	}
	if err := os.WriteFile(filepath.Join(dir, host.SumsFile), []byte(sums.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	starter := &Starter{}
	h, err := host.New(host.Config{
		Dir:        dir,
		RuntimeDir: shortTempDir(t),
		Starter:    starter,
		Logger:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, siteType, starter
}

// shortTempDir exists because a socket's path must stay below 108 bytes, which
// t.TempDir and a long test name exceed.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "chom-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
