package systemd

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

func handle(t *testing.T) contract.Handle {
	t.Helper()
	h, err := contract.ParseHandle("abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestUnits(t *testing.T) {
	h := handle(t)
	memory, _ := contract.ParseByteSize("512M")
	service, timer, err := Cron{Handle: h, Path: "/usr/bin/php8.2", Args: []string{"-f", "/srv/chom/sites/abcdefgh27/public/wp-cron.php"}, Every: time.Minute}.Units()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []Unit{
		MountUnit(),
		SliceUnit(h, Limits{CPUPercent: 150, Memory: memory, Tasks: 200, IOWeight: 100}),
		service, timer,
	} {
		t.Run(u.Name+" is as reviewed", func(t *testing.T) {
			got, err := u.text()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/"+u.Name, string(got))
		})
	}
	t.Run("a schedule that doesn't divide the hour is refused", func(t *testing.T) {
		for _, d := range []time.Duration{0, time.Second, 7 * time.Minute, 2 * time.Hour, 90 * time.Second, -time.Minute} {
			if _, _, err := (Cron{Handle: h, Path: "/usr/bin/true", Every: d}).Units(); err == nil {
				t.Errorf("%v passed", d)
			}
		}
	})
}

func TestText(t *testing.T) {
	setting := func(key, value string) Unit {
		return Unit{Name: "chom-x.service", Sections: []Section{{"Service", []run.Property{{Key: key, Value: value}}}}}
	}
	t.Run("refuses what would end a line, join two or start another setting", func(t *testing.T) {
		for _, v := range []string{"a\nExecStart=/bin/sh", "a\r", "a\x00b", "a\\", " a", "a ", "\t", "a\x7f", "\xff"} {
			if text, err := setting("Description", v).text(); err == nil {
				t.Errorf("%q gave %q", v, text)
			}
		}
		for _, k := range []string{"", "A B", "A=B", "[X]", "#A", "A\n"} {
			if _, err := setting(k, "v").text(); err == nil {
				t.Errorf("key %q passed", k)
			}
		}
		if _, err := (Unit{Name: "chom-x.service", Sections: []Section{{Name: "A]\n[B"}}}).text(); err == nil {
			t.Error("a section name with a line break passed")
		}
	})
	t.Run("whatever is printed reads back as it was meant", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			u := setting("X", rapid.String().Draw(t, "value"))
			text, err := u.text()
			if err != nil {
				return // refused is fine; different is not
			}
			if n := strings.Count(string(text), "\n"); n != 4 {
				t.Fatalf("%d lines: %q", n, text)
			}
			back, err := parse(string(text))
			if err != nil || !slices.Equal(back[0].Settings, u.Sections[0].Settings) {
				t.Fatalf("%q came back as %v, %v", text, back, err)
			}
		})
	})
	t.Run("commands are quoted and not expanded", func(t *testing.T) {
		got := Argv("/usr/bin/php", "-d", `a="b\c"`, "$HOME", "100%", "")
		if want := `/usr/bin/php "-d" "a=\"b\\c\"" "$$HOME" "100%%" ""`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestNamesThatAreNotOurs(t *testing.T) {
	h := &Host{dir: t.TempDir()}
	for _, name := range []string{"ssh.service", "../x.service", "chom-a/b.service", "nginx.service", "chom-.conf", "chom-x.service.d", "chom-X.service", ""} {
		if _, err := h.Install(t.Context(), Unit{Name: name}); err == nil {
			t.Errorf("Install(%q) passed", name)
		}
		if err := h.Uninstall(t.Context(), name); err == nil {
			t.Errorf("Uninstall(%q) passed", name)
		}
		if err := h.Enable(name, "multi-user.target"); err == nil {
			t.Errorf("Enable(%q) passed", name)
		}
	}
	if err := h.Mask(t.Context(), "chom-agent.service"); err == nil {
		t.Error("we masked ourselves")
	}
	if files, _ := os.ReadDir(h.dir); len(files) != 0 {
		t.Errorf("left %v", files)
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", file, got)
	}
}
