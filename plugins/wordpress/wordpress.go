package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// wordpress goes through these states, each told from the disk and the
// database alone, so that a killed Install is simply called again:
//
//	fresh       public/ is empty
//	  | extract       private/.chom-install/part; a kill throws it away
//	  v
//	staged      private/.chom-install/tree: complete, with wp-config.php
//	  | database      tables, then all rows in one transaction
//	  v
//	ready       the database says so
//	  | publish       entry by entry: wp-config.php first, index.php last
//	  v
//	installed   public/ holds everything, .chom-install is gone
//
// While entries move, whatever is already public finds its configuration and
// an installed database: WordPress's installer has nothing to offer at any
// moment.
type wordpress struct{}

// version is the package's; its build sets it.
var version = "0.0.0"

// The settings' names.
const (
	settingTitle         = "title"
	settingAdminUser     = "admin_user"
	settingAdminEmail    = "admin_email"
	settingLocale        = "locale"
	settingPermalinks    = "permalinks"
	settingBlockExternal = "block_external_http"
)

func (wordpress) Describe() sdk.Description {
	siteType, err := contract.ParseSiteType("wordpress")
	if err != nil {
		panic(err) // a constant
	}
	return sdk.Description{
		Type:            siteType,
		Version:         version,
		NeedsPHP:        true,
		NeedsDatabase:   true,
		NeedsArchive:    true,
		DocumentRoot:    "public",
		FrontController: "index.php",
		UploadDirs:      []string{"wp-content/uploads"},
		DeniedFiles: []string{
			"wp-config.php",
			"wp-config-sample.php",
			"wp-admin/install.php",
			"wp-admin/setup-config.php",
			"wp-content/debug.log",
		},
		Crons: []sdk.Cron{{
			Name:      "wp-cron",
			PHPScript: "public/wp-cron.php",
			// Shops schedule things for the next minute.
			Interval: time.Minute,
			Limit:    10 * time.Minute,
		}},
		Settings: settings(),
	}
}

func settings() []sdk.Setting {
	return []sdk.Setting{
		{
			Name: settingTitle, Type: sdk.String, Required: true, MaxLength: 200,
			Description: "Title of the site.",
		},
		{
			Name: settingAdminUser, Type: sdk.String, Default: "owner", MaxLength: 60, InstallOnly: true,
			Pattern:     `[A-Za-z0-9][A-Za-z0-9_.-]*`,
			Description: "Name of the first administrator.",
		},
		{
			Name: settingAdminEmail, Type: sdk.Email, Required: true, InstallOnly: true,
			Description: "Address of the first administrator.",
		},
		{
			Name: settingLocale, Type: sdk.String, Default: "en_US", MaxLength: 32, InstallOnly: true,
			Pattern:     `[a-z]{2,3}(_[A-Z]{2})?(_[a-z0-9]{1,20})?`,
			Description: "Language, as WordPress names it. English is used if the archive lacks it.",
		},
		{
			Name: settingPermalinks, Type: sdk.Enum, Default: "postname", InstallOnly: true,
			Values:      []string{"postname", "day", "plain"},
			Description: "Form of the addresses of posts.",
		},
		{
			Name: settingBlockExternal, Type: sdk.Bool, Default: "false",
			Description: "Keeps WordPress from calling other servers, its update server included.",
		},
	}
}

func (wordpress) Update(ctx context.Context, site sdk.Site) (sdk.State, error) {
	unlock, err := site.Lock(ctx)
	if err != nil {
		return sdk.State{}, err
	}
	defer unlock()
	if err := installedFiles(site); err != nil {
		return sdk.State{}, err
	}
	private, public, err := openBoth(site)
	if err != nil {
		return sdk.State{}, err
	}
	defer private.Close()
	defer public.Close()
	left, err := adopt(ctx, site, private, public)
	if err != nil {
		return sdk.State{}, err
	}
	if err := setBlockExternal(private, public, site.Settings.Bool(settingBlockExternal)); err != nil {
		return sdk.State{}, err
	}
	if err := placeMustUse(private, public); err != nil {
		return sdk.State{}, err
	}
	state, err := bringOptions(ctx, site)
	if err == nil && left {
		state.Findings = append(state.Findings, sdk.Finding{
			Code: "old-address-left", Severity: sdk.Warning,
			Message: "Some texts still hold the address of the site that they were copied from: search them and replace it.",
		})
	}
	return state, err
}

func (wordpress) Check(ctx context.Context, site sdk.Site) (sdk.State, error) {
	if err := installedFiles(site); errors.Is(err, sdk.ErrNotInstalled) {
		return sdk.State{}, nil
	} else if err != nil {
		return sdk.State{}, err
	}
	if is, err := foreign(site); err != nil {
		return sdk.State{}, err
	} else if is {
		return sdk.State{Installed: true, Findings: []sdk.Finding{{
			Code: "of-another-site", Severity: sdk.Problem,
			Message: "The files were restored from another site's backup, and are not this site's before its next update.",
		}}}, nil
	}
	return measure(ctx, site)
}

func (wordpress) ArmLogin(ctx context.Context, site sdk.Site, login sdk.Login) error {
	unlock, err := site.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := installedFiles(site); err != nil {
		return err
	}
	private, public, err := openBoth(site)
	if err != nil {
		return err
	}
	defer private.Close()
	defer public.Close()
	if err := placeMustUse(private, public); err != nil {
		return err
	}
	return armLogin(ctx, site, login)
}

// coreFiles stand for the whole core: an archive without one of them is not a
// WordPress, a document root without one is broken.
var coreFiles = []string{
	"index.php",
	"wp-load.php",
	"wp-settings.php",
	"wp-cron.php",
	"wp-login.php",
	"wp-includes/version.php",
	"wp-admin/includes/upgrade.php",
}

// installedFiles returns ErrNotInstalled unless everything has been published.
func installedFiles(site sdk.Site) error {
	private, public, err := openBoth(site)
	if err != nil {
		return err
	}
	defer private.Close()
	defer public.Close()
	unfinished, err := exists(private, stagingDir)
	if err != nil {
		return err
	}
	if unfinished {
		return sdk.ErrNotInstalled
	}
	name, err := missing(public, configFile, "index.php", "wp-load.php")
	if err != nil {
		return err
	}
	if name != "" {
		return fmt.Errorf("%w: %s is missing", sdk.ErrNotInstalled, name)
	}
	return nil
}

// missing names the first of the files that is not there, or "".
func missing(root *os.Root, names ...string) (string, error) {
	for _, name := range names {
		info, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("look for %s: %w", name, err)
		}
	}
	return "", nil
}

func openBoth(site sdk.Site) (private, public *os.Root, err error) {
	if private, err = site.Private(); err != nil {
		return nil, nil, fmt.Errorf("open private folder: %w", err)
	}
	if public, err = site.Public(); err != nil {
		private.Close()
		return nil, nil, fmt.Errorf("open document root: %w", err)
	}
	return private, public, nil
}
