package main

import (
	"context"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdk/php"
)

// The scripts run inside WordPress by php-cli. All but login load it with
// WP_INSTALLING, which leaves the customer's plugins and themes out: a site
// that they broke can still be checked, renamed and moved.
var (
	//go:embed scripts/common.php
	commonScript string
	//go:embed scripts/install.php
	installScript string
	//go:embed scripts/state.php
	stateScript string
	//go:embed scripts/options.php
	optionsScript string
	//go:embed scripts/move.php
	moveScript string
	//go:embed scripts/login.php
	loginScript string
)

const (
	// A slow disk makes the tables' creation long; wp_install() itself takes
	// about a second.
	installLimit = 2 * time.Minute
	shortLimit   = 20 * time.Second
)

// populate installs WordPress from the tree into the database, unless that is
// done, and gives what the same run of PHP then measured.
func populate(ctx context.Context, site sdk.Site, tree string) (sdk.State, error) {
	in := struct {
		Tree       string `json:"tree"`
		URL        string `json:"url"`
		Title      string `json:"title"`
		User       string `json:"user"`
		Email      string `json:"email"`
		Locale     string `json:"locale"`
		Permalinks string `json:"permalinks"`
	}{
		Tree:       tree,
		URL:        site.URL(),
		Title:      site.Settings[settingTitle],
		User:       site.Settings[settingAdminUser],
		Email:      site.Settings[settingAdminEmail],
		Locale:     site.Settings[settingLocale],
		Permalinks: permalinkForms[site.Settings[settingPermalinks]],
	}
	var out measured
	if err := run(ctx, site, tree, installScript, installLimit, in, &out); err != nil {
		return sdk.State{}, fmt.Errorf("install WordPress into the database: %w", err)
	}
	if !out.Installed {
		return sdk.State{}, fmt.Errorf("install WordPress into the database: it is not there afterwards")
	}
	return out.state(site), nil
}

// permalinkForms are what WordPress calls the structures.
var permalinkForms = map[string]string{
	"postname": "/%postname%/",
	"day":      "/%year%/%monthnum%/%day%/%postname%/",
	"plain":    "",
}

// bringOptions sets title and address to what the site should have, and gives what
// the same run of PHP then measured.
func bringOptions(ctx context.Context, site sdk.Site) (sdk.State, error) {
	in := struct {
		Tree   string `json:"tree"`
		URL    string `json:"url"`
		Title  string `json:"title"`
		Locale string `json:"locale"`
	}{site.PublicPath(), site.URL(), site.Settings[settingTitle], site.Settings[settingLocale]}
	var out measured
	if err := run(ctx, site, site.PublicPath(), optionsScript, shortLimit, in, &out); err != nil {
		return sdk.State{}, fmt.Errorf("set title and address: %w", err)
	}
	return out.state(site), nil
}

// measure asks WordPress how it is. It expects the files to be there.
func measure(ctx context.Context, site sdk.Site) (sdk.State, error) {
	in := struct {
		Tree   string `json:"tree"`
		URL    string `json:"url"`
		Locale string `json:"locale"`
	}{site.PublicPath(), site.URL(), site.Settings[settingLocale]}
	var out measured
	if err := run(ctx, site, site.PublicPath(), stateScript, shortLimit, in, &out); err != nil {
		return sdk.State{}, fmt.Errorf("ask WordPress: %w", err)
	}
	return out.state(site), nil
}

// measured is what chom_measure answers.
type measured struct {
	Installed       bool   `json:"installed"`
	Version         string `json:"version"`
	DatabaseVersion string `json:"database_version"`
	CodeVersion     string `json:"code_version"` // of the schema that the files want
	HomeTitle       string `json:"home_title"`
	Home            string `json:"home"`
	HasLanguage     bool   `json:"has_language"`
	Maintenance     bool   `json:"maintenance"` // left behind by an update
}

func (m measured) state(site sdk.Site) sdk.State {
	if !m.Installed {
		return sdk.State{Version: m.Version, Findings: []sdk.Finding{{
			Code:     "database-empty",
			Severity: sdk.Problem,
			Message:  "The files are in place but the database holds no WordPress: anyone could install one.",
		}}}
	}
	state := sdk.State{
		Installed:       true,
		Version:         m.Version,
		DatabaseVersion: m.DatabaseVersion,
		HomeTitle:       m.HomeTitle,
	}
	find := func(when bool, code string, severity sdk.Severity, message string) {
		if when {
			state.Findings = append(state.Findings, sdk.Finding{Code: code, Severity: severity, Message: message})
		}
	}
	find(m.DatabaseVersion != m.CodeVersion, "database-upgrade-due", sdk.Warning,
		"The database is of another version than the files; WordPress offers its upgrade to an administrator.")
	find(m.Home != site.URL(), "address-differs", sdk.Warning,
		"WordPress believes to live at another address than the site has.")
	find(m.Maintenance, "maintenance-left", sdk.Problem,
		"An update was interrupted: .maintenance keeps WordPress from answering.")
	find(!m.HasLanguage, "language-missing", sdk.Notice,
		"The files of the chosen language are missing; WordPress speaks English.")
	return state
}

// armLogin stores the hash of a login's token in the site's database. The
// must-use plugin compares and forgets.
func armLogin(ctx context.Context, site sdk.Site, login sdk.Login) error {
	in := struct {
		Tree    string `json:"tree"`
		URL     string `json:"url"`
		Hash    string `json:"hash"`
		User    string `json:"user"`
		Expires int64  `json:"expires"`
	}{
		Tree:    site.PublicPath(),
		URL:     site.URL(),
		Hash:    hex.EncodeToString(login.TokenSHA256[:]),
		User:    site.Settings[settingAdminUser],
		Expires: login.Expires.Unix(),
	}
	var out struct {
		User int `json:"user"`
	}
	if err := run(ctx, site, site.PublicPath(), loginScript, shortLimit, in, &out); err != nil {
		return fmt.Errorf("store login: %w", err)
	}
	if out.User == 0 {
		return sdk.Permanent(fmt.Errorf("the site has no administrator to log in"))
	}
	return nil
}

func run(ctx context.Context, site sdk.Site, dir, script string, limit time.Duration, in, out any) error {
	return php.Call{
		Binary: site.PHP,
		Dir:    dir,
		Script: commonScript + strings.TrimPrefix(script, "<?php\n"),
		Input:  in,
		Output: out,
		Limit:  limit,
	}.Run(ctx)
}
