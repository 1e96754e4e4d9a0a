package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
)

func TestBehaviour(t *testing.T) {
	sdktest.Suite{
		Open:    program(t),
		NewSite: newSite,
		Differs: []string{"public/wp-config.php"}, // keys, schema
		Halfway: noInstallerInReach,
		Kills:   3,
	}.Run(t)
}

// noInstallerInReach holds whenever a visitor might come: a public PHP file
// means a public configuration and an installed database.
func noInstallerInReach(_ context.Context, site sdk.Site) error {
	entries, err := os.ReadDir(site.PublicPath())
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Stat(filepath.Join(site.PublicPath(), configFile)); err != nil {
		return fmt.Errorf("%d entries are public, the configuration is not: %w", len(entries), err)
	}
	home, err := trySQL(fmt.Sprintf("SELECT option_value FROM `%s`.wp_options WHERE option_name = 'siteurl'", site.Database.Name))
	if err != nil || home == "" {
		return fmt.Errorf("%d entries are public, the database is not installed (%w)", len(entries), err)
	}
	return nil
}

func TestInstallTime(t *testing.T) {
	site, user := newSite(t)
	open := program(t)
	began := time.Now()
	conn, err := open(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Logf("%-10s %v", "open", time.Since(began).Round(time.Millisecond))
	step, since := "", time.Now()
	state, err := conn.Install(t.Context(), site, func(p sdk.Progress) {
		if p.Step != step {
			if step != "" {
				t.Logf("%-10s %v", step, time.Since(since).Round(time.Millisecond))
			}
			step, since = p.Step, time.Now()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%-10s %v", step, time.Since(since).Round(time.Millisecond))
	took := time.Since(began)
	t.Logf("%-10s %v, %+v", "all", took.Round(time.Millisecond), state)
	// Ten times what it takes on two quiet cores: a test of order, not of speed.
	if limit := 30 * time.Second; took > limit {
		t.Errorf("took %v, more than %v", took, limit)
	}
}
