package sdk

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"chom.dev/proto/contract"
)

func described(t testing.TB) Description {
	t.Helper()
	siteType, err := contract.ParseSiteType("sample")
	if err != nil {
		t.Fatal(err)
	}
	return Description{
		Type: siteType, Version: "1.2.3", NeedsPHP: true, NeedsDatabase: true, NeedsArchive: true,
		DocumentRoot: "public", FrontController: "index.php",
		UploadDirs: []string{"wp-content/uploads"}, DeniedFiles: []string{"config.php"},
		Crons: []Cron{{Name: "cron", PHPScript: "public/cron.php", Interval: time.Minute, Limit: time.Minute}},
		Settings: []Setting{
			{Name: "title", Type: String, Required: true, MinLength: 2, MaxLength: 5, Description: "Title."},
			{Name: "user", Type: String, Default: "owner", Pattern: "[a-z]+", InstallOnly: true},
			{Name: "mail", Type: Email},
			{Name: "loud", Type: Bool, Default: "false"},
			{Name: "mood", Type: Enum, Values: []string{"good", "bad"}, Default: "good"},
		},
	}
}

func TestResolve(t *testing.T) {
	d := described(t)
	t.Run("fills in defaults", func(t *testing.T) {
		got, err := d.Resolve(map[string]string{"title": "Café!", "mood": "bad", "user": ""})
		want := Settings{"title": "Café!", "user": "owner", "mail": "", "loud": "false", "mood": "bad"}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	})
	for name, c := range map[string]struct {
		field  string
		values map[string]string
	}{
		"a missing required setting":  {"settings.title", nil},
		"an empty required setting":   {"settings.title", map[string]string{"title": ""}},
		"a text that is too short":    {"settings.title", map[string]string{"title": "x"}},
		"a text that is too long":     {"settings.title", map[string]string{"title": "äöüäöü"}},
		"a megabyte":                  {"settings.title", map[string]string{"title": strings.Repeat("x", 1<<20)}},
		"a line break":                {"settings.title", map[string]string{"title": "a\nb"}},
		"bytes that are not UTF-8":    {"settings.title", map[string]string{"title": "a\xffb"}},
		"a text direction character":  {"settings.title", map[string]string{"title": "a\u202eb"}},
		"a pattern that only starts":  {"settings.user", map[string]string{"title": "ok", "user": "abc1"}},
		"a pattern across lines":      {"settings.user", map[string]string{"title": "ok", "user": "abc\nabc"}},
		"an address without a domain": {"settings.mail", map[string]string{"title": "ok", "mail": "joe@"}},
		"a bool that is a number":     {"settings.loud", map[string]string{"title": "ok", "loud": "1"}},
		"a choice that is not there":  {"settings.mood", map[string]string{"title": "ok", "mood": "Good"}},
		"an unknown setting":          {"settings.nope", map[string]string{"title": "ok", "nope": "x"}},
		"a name that can't be":        {"settings", map[string]string{"title": "ok", "No\nPe": "x"}},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			_, err := d.Resolve(c.values)
			var field *FieldError
			if !errors.As(err, &field) || field.Field != c.field {
				t.Errorf("err = %v, want one that names %s", err, c.field)
			}
			if err != nil && (len(err.Error()) > 200 || (strings.Contains(err.Error(), "\n") || !utf8.ValidString(err.Error()))) {
				t.Errorf("the error repeats the input: %.300q", err)
			}
		})
	}
}

func TestDescription(t *testing.T) {
	if err := described(t).Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*Description){
		"type":                    func(d *Description) { d.Type = contract.SiteType{} },
		"version":                 func(d *Description) { d.Version = "1\n2" },
		"document_root":           func(d *Description) { d.DocumentRoot = "../other" },
		"front_controller":        func(d *Description) { d.FrontController = "/index.php" },
		"upload_dirs":             func(d *Description) { d.UploadDirs = make([]string, maxUploadDirs+1) },
		"upload_dirs[0]":          func(d *Description) { d.UploadDirs = []string{"a;b"} },
		"denied_files[0]":         func(d *Description) { d.DeniedFiles = []string{`a"b`} },
		"crons":                   func(d *Description) { d.NeedsPHP = false },
		"crons[0].name":           func(d *Description) { d.Crons[0].Name = "A B" },
		"crons[0].php_script":     func(d *Description) { d.Crons[0].PHPScript = "-r" },
		"crons[0].interval":       func(d *Description) { d.Crons[0].Interval = time.Second },
		"crons[0].limit":          func(d *Description) { d.Crons[0].Limit = 0 },
		"settings[0].name":        func(d *Description) { d.Settings[0].Name = "Title" },
		"settings[1].name":        func(d *Description) { d.Settings[1].Name = "title" },
		"settings[0].type":        func(d *Description) { d.Settings[0].Type = "code" },
		"settings[0].max_length":  func(d *Description) { d.Settings[0].MinLength = 6 },
		"settings[4].values":      func(d *Description) { d.Settings[4].Values = nil },
		"settings[1].pattern":     func(d *Description) { d.Settings[1].Pattern = "(" },
		"settings[0].default":     func(d *Description) { d.Settings[0].Default = "x" },
		"settings[3].default":     func(d *Description) { d.Settings[3].Default = "maybe" },
		"settings[0].description": func(d *Description) { d.Settings[0].Description = "\x1b" },
	} {
		t.Run("refuses a bad "+field, func(t *testing.T) {
			d := described(t)
			spoil(&d)
			if err := d.Validate(); err == nil || !strings.Contains(err.Error(), field+" ") {
				t.Errorf("err = %v", err)
			}
		})
	}
	t.Run("survives the wire unchanged", func(t *testing.T) {
		d := described(t)
		d.OffersLogin = true
		got, err := descriptionFromWire(descriptionToWire(d))
		if err != nil || !reflect.DeepEqual(got, d) {
			t.Errorf("%+v, %v, want %+v", got, err, d)
		}
	})
}
