package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
	"chom.dev/proto/contract"
)

func TestBehaviourOverTheWire(t *testing.T) {
	sdktest.Suite{
		Open: sdktest.InProcess(t, static{}),
		NewSite: func(t *testing.T) (sdk.Site, host.User) {
			return newSite(t, os.Getuid(), os.Getgid())
		},
	}.Run(t)
}

func TestBehaviourOfTheProgram(t *testing.T) {
	sdktest.Suite{
		Open: sdktest.Program(t, "chom.dev/plugins/static"),
		NewSite: func(t *testing.T) (sdk.Site, host.User) {
			id := 100_000 + rand.IntN(1_000_000) // nobody's
			return newSite(t, id, id)
		},
		Kills: 12,
	}.Run(t)
}

func newSite(t *testing.T, uid, gid int) (sdk.Site, host.User) {
	t.Helper()
	domain, err := contract.ParseDomain("example.com")
	if err != nil {
		t.Fatal(err)
	}
	user := host.User{Handle: contract.NewHandle(), UID: uid, GID: gid}
	return sdk.Site{
		Handle:   user.Handle,
		Tree:     sdktest.NewTree(t, user),
		Domain:   domain,
		Settings: sdk.Settings{"title": `Tom & <b>"Jerry"</b>`},
	}, user
}

func localSite(t *testing.T) sdk.Site {
	t.Helper()
	site, _ := newSite(t, os.Getuid(), os.Getgid())
	return site
}

func install(t *testing.T, site sdk.Site) sdk.State {
	t.Helper()
	state, err := static{}.Install(context.Background(), site, func(sdk.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func read(t *testing.T, site sdk.Site, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(site.PublicPath(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestInstall(t *testing.T) {
	t.Run("escapes the title in the page and announces it as served", func(t *testing.T) {
		site := localSite(t)
		state := install(t, site)
		page := read(t, site, indexFile)
		if strings.Contains(page, "<b>") {
			t.Errorf("the title's markup reached the page:\n%s", page)
		}
		if want := "<title>" + state.HomeTitle + "</title>"; !strings.Contains(page, want) {
			t.Errorf("page lacks %s:\n%s", want, page)
		}
	})
	t.Run("takes a title that holds the page's own mark", func(t *testing.T) {
		site := localSite(t)
		site.Settings = sdk.Settings{"title": "TITLE TITLE"}
		install(t, site)
		if title, ours, err := readPage(mustPublic(t, site)); err != nil || !ours || title != "TITLE TITLE" {
			t.Errorf("read back %q, ours %v, err %v", title, ours, err)
		}
	})
	t.Run("adds no page beside any file of the customer", func(t *testing.T) {
		site := localSite(t)
		if err := os.WriteFile(filepath.Join(site.PublicPath(), "home.htm"), []byte("hi"), 0o640); err != nil {
			t.Fatal(err)
		}
		state := install(t, site)
		if _, err := os.Stat(filepath.Join(site.PublicPath(), indexFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("index.html exists beside the customer's file: %v", err)
		}
		if !state.Installed || state.HomeTitle != "" || len(state.Findings) != 1 || state.Findings[0].Code != "no-index" {
			t.Errorf("state = %+v", state)
		}
	})
	t.Run("finishes a page that was half-written", func(t *testing.T) {
		site := localSite(t)
		if err := os.WriteFile(filepath.Join(site.PublicPath(), tempFile), []byte("<!doc"), 0o640); err != nil {
			t.Fatal(err)
		}
		if state := install(t, site); state.HomeTitle == "" {
			t.Errorf("state = %+v", state)
		}
		if entries, err := os.ReadDir(site.PublicPath()); err != nil || len(entries) != 1 {
			t.Errorf("left %v, %v", entries, err)
		}
	})
	t.Run("does not follow a link that the customer made", func(t *testing.T) {
		site := localSite(t)
		outside := filepath.Join(t.TempDir(), "outside")
		if err := os.Symlink(outside, filepath.Join(site.PublicPath(), indexFile)); err != nil {
			t.Fatal(err)
		}
		install(t, site)
		if _, err := os.Lstat(outside); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the link's target was made: %v", err)
		}
	})
}

func TestUpdate(t *testing.T) {
	t.Run("gives our page the new title", func(t *testing.T) {
		site := localSite(t)
		install(t, site)
		site.Settings = sdk.Settings{"title": "New"}
		state, err := static{}.Update(context.Background(), site)
		if err != nil || state.HomeTitle != "New" {
			t.Fatalf("state %+v, err %v", state, err)
		}
		if page := read(t, site, indexFile); !strings.Contains(page, "<h1>New</h1>") {
			t.Errorf("page:\n%s", page)
		}
	})
	t.Run("leaves our page alone once the customer changed one byte", func(t *testing.T) {
		site := localSite(t)
		install(t, site)
		changed := strings.Replace(read(t, site, indexFile), "ready", "Ready", 1)
		if err := os.WriteFile(filepath.Join(site.PublicPath(), indexFile), []byte(changed), 0o640); err != nil {
			t.Fatal(err)
		}
		site.Settings = sdk.Settings{"title": "New"}
		state, err := static{}.Update(context.Background(), site)
		if err != nil || state.HomeTitle != "" {
			t.Fatalf("state %+v, err %v", state, err)
		}
		if page := read(t, site, indexFile); page != changed {
			t.Errorf("page:\n%s", page)
		}
	})
}

func mustPublic(t *testing.T, site sdk.Site) *os.Root {
	t.Helper()
	public, err := site.Public()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { public.Close() })
	return public
}
