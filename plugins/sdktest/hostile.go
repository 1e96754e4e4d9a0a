package sdktest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"chom.dev/plugins/sdk"
)

// hostileTexts have no place in any setting.
var hostileTexts = []string{
	"a\x00b", "a\nb", "a\r\nb", "a\x1b[31mb", "a\u2028b", "a\u202eb", "a\xffb", strings.Repeat("x", 1<<16),
}

func refusesSettings(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	before, err := snapshot(site.Tree, nil)
	if err != nil {
		return err
	}
	err = b.visit(user, func(c Conn) error {
		d, err := c.Describe(b.ctx)
		if err != nil {
			return err
		}
		for _, bad := range badSettings(d, site.Settings) {
			changed := site
			changed.Settings = bad.settings
			_, err := c.Install(b.ctx, changed, nil)
			if err := blames(err, bad.field); err != nil {
				return fmt.Errorf("install with %s: %w", bad.why, err)
			}
			_, err = c.Update(b.ctx, changed)
			if err := blames(err, bad.field); err != nil {
				return fmt.Errorf("update with %s: %w", bad.why, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return unchanged(site, before)
}

type badSetting struct {
	why, field string
	settings   sdk.Settings
}

// badSettings spoils the good settings in every way that the schema allows to
// know of, one at a time.
func badSettings(d sdk.Description, good sdk.Settings) []badSetting {
	with := func(name, value string) sdk.Settings {
		changed := maps.Clone(good)
		if changed == nil {
			changed = sdk.Settings{}
		}
		changed[name] = value
		return changed
	}
	bad := []badSetting{
		{"an unknown setting", "settings.no_such_setting", with("no_such_setting", "x")},
		{"an impossible name", "settings", with("../../etc", "x")},
	}
	for _, s := range d.Settings {
		field := "settings." + s.Name
		for _, text := range hostileTexts {
			if !strings.Contains(text, "\xff") { // protobuf itself refuses it
				bad = append(bad, badSetting{fmt.Sprintf("%s = %.20q", s.Name, text), field, with(s.Name, text)})
			}
		}
		switch s.Type {
		case sdk.Bool:
			bad = append(bad, badSetting{s.Name + " = maybe", field, with(s.Name, "maybe")})
		case sdk.Enum:
			bad = append(bad, badSetting{s.Name + " out of range", field, with(s.Name, strings.Join(s.Values, "")+"x")})
		case sdk.Email:
			bad = append(bad, badSetting{s.Name + " without @", field, with(s.Name, "nobody")})
		case sdk.String:
			if s.MaxLength > 0 {
				bad = append(bad, badSetting{s.Name + " too long", field, with(s.Name, strings.Repeat("a", s.MaxLength+1))})
			}
		}
		if s.Required {
			missing := maps.Clone(good)
			delete(missing, s.Name)
			bad = append(bad, badSetting{"no " + s.Name, field, missing})
		}
	}
	return bad
}

func refusesSites(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	before, err := snapshot(site.Tree, nil)
	if err != nil {
		return err
	}
	err = b.visit(user, func(c Conn) error {
		d, err := c.Describe(b.ctx)
		if err != nil {
			return err
		}
		for _, bad := range badSites(d, site) {
			_, err := c.Install(b.ctx, bad.site, nil)
			if err := blames(err, bad.field); err != nil {
				return fmt.Errorf("install with bad %s: %w", bad.field, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return unchanged(site, before)
}

type badSite struct {
	field string
	site  sdk.Site
}

func badSites(d sdk.Description, good sdk.Site) []badSite {
	var bad []badSite
	spoil := func(field string, change func(*sdk.Site)) {
		site := good
		if good.Database != nil {
			db := *good.Database
			site.Database = &db
		}
		if good.Archive != nil {
			archive := *good.Archive
			site.Archive = &archive
		}
		change(&site)
		bad = append(bad, badSite{field, site})
	}
	spoil("tree", func(s *sdk.Site) { s.Tree = "relative" })
	spoil("tree", func(s *sdk.Site) { s.Tree = s.Tree + "/../other" })
	spoil("tree", func(s *sdk.Site) { s.Tree = "/tmp/it's" })
	if d.NeedsPHP {
		spoil("php", func(s *sdk.Site) { s.PHP = "" })
		spoil("php", func(s *sdk.Site) { s.PHP = "php" })
	}
	if d.NeedsDatabase {
		spoil("database", func(s *sdk.Site) { s.Database = nil })
		spoil("database.socket", func(s *sdk.Site) { s.Database.Socket = "/run/';die;'" })
	}
	if d.NeedsArchive {
		spoil("archive", func(s *sdk.Site) { s.Archive = nil })
		spoil("archive.path", func(s *sdk.Site) { s.Archive.Path = "archive.tar.gz" })
		spoil("archive.sha256", func(s *sdk.Site) { s.Archive.SHA256 = "abc" })
	}
	return bad
}

// refusesArchive gives a cut archive, one with a foreign checksum and none at
// all; each must fail, leave nothing live, and not stand in the way of the
// right one.
func refusesArchive(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	if site.Archive == nil {
		return nil
	}
	good := *site.Archive
	content, err := os.ReadFile(good.Path)
	if err != nil {
		return err
	}
	cut := filepath.Join(filepath.Dir(site.Tree), "cut.tar.gz")
	if err := os.WriteFile(cut, content[:len(content)/2], 0o644); err != nil {
		return err
	}
	for _, bad := range []sdk.Archive{
		{Path: cut, SHA256: good.SHA256},
		{Path: good.Path, SHA256: strings.Repeat("0", 64)},
		{Path: filepath.Join(filepath.Dir(site.Tree), "missing.tar.gz"), SHA256: good.SHA256},
	} {
		changed := site
		changed.Archive = &bad
		if err := b.visit(user, func(c Conn) error {
			_, err := c.Install(b.ctx, changed, nil)
			if err == nil {
				return errors.New("installed from a bad archive")
			}
			b.t.Logf("bad archive: %v", err)
			return nil
		}); err != nil {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(site.Tree, "public"))
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("after a bad archive public/ holds %v", entries)
		}
	}
	_, err = b.install(site, user)
	return err
}
