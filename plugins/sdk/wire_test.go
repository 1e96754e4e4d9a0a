package sdk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"chom.dev/proto/contract"
	pluginv1 "chom.dev/proto/gen/chom/plugin/v1"
)

func sampleSite(t *testing.T) Site {
	t.Helper()
	handle, err := contract.ParseHandle("abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	domain, err := contract.ParseDomain("www.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return Site{
		Handle: handle, Tree: "/srv/chom/sites/abcdefgh27", Domain: domain, HTTPS: true,
		Settings: Settings{"title": "Café", "user": "owner", "mail": "", "loud": "false", "mood": "good"},
		PHP:      "/usr/bin/php8.2",
		Database: &Database{Name: handle.DBName(), User: handle.UnixUser(), Socket: "/run/mysqld/mysqld.sock"},
		Archive:  &Archive{Path: "/var/cache/x.tar.gz", SHA256: strings.Repeat("0f", 32)},
	}
}

func TestSiteSurvivesTheWire(t *testing.T) {
	site := sampleSite(t)
	got, err := siteFromWire(siteToWire(site), described(t), true)
	if err != nil || !reflect.DeepEqual(got, site) {
		t.Errorf("%+v, %v, want %+v", got, err, site)
	}
}

func TestSiteFromWireRefuses(t *testing.T) {
	for field, spoil := range map[string]func(*pluginv1.Site){
		"handle":          func(s *pluginv1.Site) { s.Handle = "root" },
		"domain":          func(s *pluginv1.Site) { s.Domain = "example.com/x" },
		"tree":            func(s *pluginv1.Site) { s.Tree = "/srv/../etc" },
		"php":             func(s *pluginv1.Site) { s.Php = "/usr/bin/php -r" },
		"database":        func(s *pluginv1.Site) { s.Database = nil },
		"database.name":   func(s *pluginv1.Site) { s.Database.Name = "mysql" },
		"database.user":   func(s *pluginv1.Site) { s.Database.User = "root" },
		"database.socket": func(s *pluginv1.Site) { s.Database.Socket = "/run/x'y" },
		"archive":         func(s *pluginv1.Site) { s.Archive = nil },
		"archive.path":    func(s *pluginv1.Site) { s.Archive.Path = "" },
		"archive.sha256":  func(s *pluginv1.Site) { s.Archive.Sha256 = strings.ToUpper(s.Archive.Sha256) },
		"settings.title":  func(s *pluginv1.Site) { s.Settings["title"] = "much too long" },
	} {
		t.Run("a bad "+field, func(t *testing.T) {
			w := siteToWire(sampleSite(t))
			spoil(w)
			_, err := siteFromWire(w, described(t), true)
			var blamed *FieldError
			if !errors.As(err, &blamed) || blamed.Field != field {
				t.Errorf("err = %v", err)
			}
		})
	}
	t.Run("no site at all", func(t *testing.T) {
		if _, err := siteFromWire(nil, described(t), true); err == nil {
			t.Error("accepted")
		}
	})
}

func TestStateFromWireIsBounded(t *testing.T) {
	hostile := &pluginv1.State{Version: strings.Repeat("v", 1<<20), HomeTitle: "a\x1b[2Jb\nc"}
	for range 1000 {
		hostile.Findings = append(hostile.Findings, &pluginv1.Finding{Code: "x", Severity: 77, Message: strings.Repeat("m", 1<<16)})
	}
	s := stateFromWire(hostile)
	if len(s.Version) > 2*maxText || len(s.Findings) != maxFindings || len(s.Findings[0].Message) > 2*maxText {
		t.Errorf("version %d, findings %d, message %d bytes", len(s.Version), len(s.Findings), len(s.Findings[0].Message))
	}
	if s.HomeTitle != "a\ufffd[2Jb c" {
		t.Errorf("title %q", s.HomeTitle)
	}
	if s.Findings[0].Severity != Problem {
		t.Errorf("an unknown severity became %v", s.Findings[0].Severity)
	}
}

func TestProgressFromWireIsBounded(t *testing.T) {
	for sent, want := range map[float32]float64{-1: 0, 2: 1, float32(math.NaN()): 0, float32(math.Inf(1)): 1, 0.5: 0.5} {
		if got := progressFromWire(&pluginv1.Progress{Fraction: sent}).Fraction; got != want {
			t.Errorf("%v became %v, want %v", sent, got, want)
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	plain := errors.New("the disk is full")
	for name, c := range map[string]struct {
		err       error
		is        error
		permanent bool
	}{
		"plain":         {plain, nil, false},
		"permanent":     {Permanent(plain), nil, true},
		"not installed": {fmt.Errorf("x: %w", ErrNotInstalled), ErrNotInstalled, true},
		"unsupported":   {ErrUnsupported, ErrUnsupported, true},
		"deadline":      {fmt.Errorf("x: %w", context.DeadlineExceeded), context.DeadlineExceeded, false},
		"canceled":      {context.Canceled, context.Canceled, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := fromStatus(toStatus(c.err))
			if c.is != nil && !errors.Is(got, c.is) || IsPermanent(got) != c.permanent {
				t.Errorf("%v became %v, permanent %v", c.err, got, IsPermanent(got))
			}
			if c.is == nil && got.Error() != c.err.Error() {
				t.Errorf("%q became %q", c.err, got)
			}
		})
	}
	t.Run("with the field they name", func(t *testing.T) {
		got := fromStatus(toStatus(fmt.Errorf("install: %w", &FieldError{"settings.title", "is ugly"})))
		var field *FieldError
		if !errors.As(got, &field) || *field != (FieldError{"settings.title", "is ugly"}) {
			t.Errorf("became %v", got)
		}
	})
	t.Run("cleaned and cut", func(t *testing.T) {
		got := fromStatus(toStatus(errors.New("\x1b[31m" + strings.Repeat("x\n", 1<<16))))
		if len(got.Error()) > maxErrorText+20 || strings.ContainsAny(got.Error(), "\x1b\n") {
			t.Errorf("%d bytes: %.60q", len(got.Error()), got)
		}
	})
}
