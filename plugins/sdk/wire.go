package sdk

import (
	"encoding/hex"
	"path/filepath"
	"regexp"
	"time"

	"chom.dev/proto/contract"
	pluginv1 "chom.dev/proto/gen/chom/plugin/v1"
)

// This file turns plain structs into messages and back. Reading is strict
// where a plugin reads (a bad field is refused by name) and lenient but bounded
// where the agent reads (long text is cut, odd text cleaned).

func siteToWire(s Site) *pluginv1.Site {
	w := &pluginv1.Site{
		Handle:   s.Handle.String(),
		Tree:     s.Tree,
		Domain:   s.Domain.String(),
		Https:    s.HTTPS,
		Settings: s.Settings,
		Php:      s.PHP,
	}
	if s.Database != nil {
		w.Database = &pluginv1.Database{
			Name:   s.Database.Name.String(),
			User:   s.Database.User.String(),
			Socket: s.Database.Socket,
		}
	}
	if s.Archive != nil {
		w.Archive = &pluginv1.Archive{Path: s.Archive.Path, Sha256: s.Archive.SHA256}
	}
	return w
}

// siteFromWire checks everything that a SiteType relies on. installing says
// that an archive is due.
func siteFromWire(w *pluginv1.Site, d Description, installing bool) (Site, error) {
	var s Site
	var err error
	if w == nil {
		return s, &FieldError{"site", "is required"}
	}
	if s.Handle, err = contract.ParseHandle(w.GetHandle()); err != nil {
		return s, &FieldError{"handle", err.Error()}
	}
	if s.Domain, err = contract.ParseDomain(w.GetDomain()); err != nil {
		return s, &FieldError{"domain", err.Error()}
	}
	s.HTTPS = w.GetHttps()
	if s.Tree, err = absolute("tree", w.GetTree()); err != nil {
		return s, err
	}
	if d.NeedsPHP {
		if s.PHP, err = absolute("php", w.GetPhp()); err != nil {
			return s, err
		}
	}
	if d.NeedsDatabase {
		if s.Database, err = databaseFromWire(w.GetDatabase()); err != nil {
			return s, err
		}
	}
	if d.NeedsArchive && installing {
		if s.Archive, err = archiveFromWire(w.GetArchive()); err != nil {
			return s, err
		}
	}
	s.Settings, err = d.Resolve(w.GetSettings())
	return s, err
}

func databaseFromWire(w *pluginv1.Database) (*Database, error) {
	var db Database
	var err error
	if w == nil {
		return nil, &FieldError{"database", "is required"}
	}
	if db.Name, err = contract.ParseDBName(w.GetName()); err != nil {
		return nil, &FieldError{"database.name", err.Error()}
	}
	if db.User, err = contract.ParseUnixUser(w.GetUser()); err != nil {
		return nil, &FieldError{"database.user", err.Error()}
	}
	if db.Socket, err = absolute("database.socket", w.GetSocket()); err != nil {
		return nil, err
	}
	return &db, nil
}

func archiveFromWire(w *pluginv1.Archive) (*Archive, error) {
	if w == nil {
		return nil, &FieldError{"archive", "is required"}
	}
	path, err := absolute("archive.path", w.GetPath())
	if err != nil {
		return nil, err
	}
	if sum, err := hex.DecodeString(w.GetSha256()); err != nil || len(sum) != 32 || w.GetSha256() != hex.EncodeToString(sum) {
		return nil, &FieldError{"archive.sha256", "must be 64 lower-case hexadecimal digits"}
	}
	return &Archive{Path: path, SHA256: w.GetSha256()}, nil
}

// hostPath has no characters that would need quoting anywhere, a PHP string
// literal and a DB_HOST included.
var hostPath = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)

func absolute(field, path string) (string, error) {
	if len(path) > 1024 || !hostPath.MatchString(path) || filepath.Clean(path) != path {
		return "", &FieldError{field, "must be a clean absolute path of letters, digits, dots, hyphens and underscores"}
	}
	return path, nil
}

const maxFindings = 64

func stateToWire(s State) *pluginv1.State {
	w := &pluginv1.State{
		Installed:       s.Installed,
		Version:         clean(s.Version, maxText),
		DatabaseVersion: clean(s.DatabaseVersion, maxText),
		HomeTitle:       clean(s.HomeTitle, maxText),
	}
	for _, f := range s.Findings[:min(len(s.Findings), maxFindings)] {
		w.Findings = append(w.Findings, &pluginv1.Finding{
			Code:     clean(f.Code, maxPath),
			Severity: pluginv1.Severity(f.Severity), // same numbers on purpose
			Message:  clean(f.Message, maxText),
		})
	}
	return w
}

func stateFromWire(w *pluginv1.State) State {
	s := State{
		Installed:       w.GetInstalled(),
		Version:         clean(w.GetVersion(), maxText),
		DatabaseVersion: clean(w.GetDatabaseVersion(), maxText),
		HomeTitle:       clean(w.GetHomeTitle(), maxText),
	}
	for _, f := range w.GetFindings()[:min(len(w.GetFindings()), maxFindings)] {
		severity := Severity(f.GetSeverity())
		if severity < Notice || severity > Problem {
			severity = Problem // an unknown grade is taken seriously
		}
		s.Findings = append(s.Findings, Finding{
			Code:     clean(f.GetCode(), maxPath),
			Severity: severity,
			Message:  clean(f.GetMessage(), maxText),
		})
	}
	return s
}

func progressToWire(p Progress) *pluginv1.Progress {
	return &pluginv1.Progress{
		Step:     clean(p.Step, maxPath),
		Message:  clean(p.Message, maxText),
		Fraction: float32(p.Fraction),
	}
}

func progressFromWire(w *pluginv1.Progress) Progress {
	fraction := float64(w.GetFraction())
	if !(fraction >= 0) { // NaN too
		fraction = 0
	}
	return Progress{
		Step:     clean(w.GetStep(), maxPath),
		Message:  clean(w.GetMessage(), maxText),
		Fraction: min(fraction, 1),
	}
}

var settingTypes = map[SettingType]pluginv1.SettingType{
	String: pluginv1.SettingType_SETTING_TYPE_STRING,
	Email:  pluginv1.SettingType_SETTING_TYPE_EMAIL,
	Bool:   pluginv1.SettingType_SETTING_TYPE_BOOL,
	Enum:   pluginv1.SettingType_SETTING_TYPE_ENUM,
}

func descriptionToWire(d Description) *pluginv1.Description {
	w := &pluginv1.Description{
		Type:            d.Type.String(),
		Version:         d.Version,
		NeedsPhp:        d.NeedsPHP,
		NeedsDatabase:   d.NeedsDatabase,
		NeedsArchive:    d.NeedsArchive,
		OffersLogin:     d.OffersLogin,
		DocumentRoot:    d.DocumentRoot,
		FrontController: d.FrontController,
		UploadDirs:      d.UploadDirs,
		DeniedFiles:     d.DeniedFiles,
	}
	for _, c := range d.Crons {
		w.Crons = append(w.Crons, &pluginv1.Cron{
			Name:            c.Name,
			PhpScript:       c.PHPScript,
			IntervalSeconds: uint32(c.Interval / time.Second),
			LimitSeconds:    uint32(c.Limit / time.Second),
		})
	}
	for _, s := range d.Settings {
		w.Settings = append(w.Settings, &pluginv1.Setting{
			Name:         s.Name,
			Type:         settingTypes[s.Type],
			Required:     s.Required,
			DefaultValue: s.Default,
			MinLength:    uint32(s.MinLength),
			MaxLength:    uint32(s.MaxLength),
			Pattern:      s.Pattern,
			Values:       s.Values,
			InstallOnly:  s.InstallOnly,
			Description:  s.Description,
		})
	}
	return w
}

// descriptionFromWire refuses what Validate refuses.
func descriptionFromWire(w *pluginv1.Description) (Description, error) {
	siteType, err := contract.ParseSiteType(w.GetType())
	if err != nil {
		return Description{}, &FieldError{"type", err.Error()}
	}
	d := Description{
		Type:            siteType,
		Version:         w.GetVersion(),
		NeedsPHP:        w.GetNeedsPhp(),
		NeedsDatabase:   w.GetNeedsDatabase(),
		NeedsArchive:    w.GetNeedsArchive(),
		OffersLogin:     w.GetOffersLogin(),
		DocumentRoot:    w.GetDocumentRoot(),
		FrontController: w.GetFrontController(),
		UploadDirs:      w.GetUploadDirs(),
		DeniedFiles:     w.GetDeniedFiles(),
	}
	for _, c := range w.GetCrons() {
		d.Crons = append(d.Crons, Cron{
			Name:      c.GetName(),
			PHPScript: c.GetPhpScript(),
			Interval:  time.Duration(c.GetIntervalSeconds()) * time.Second,
			Limit:     time.Duration(c.GetLimitSeconds()) * time.Second,
		})
	}
	names := map[pluginv1.SettingType]SettingType{}
	for name, number := range settingTypes {
		names[number] = name
	}
	for _, s := range w.GetSettings() {
		d.Settings = append(d.Settings, Setting{
			Name:        s.GetName(),
			Type:        names[s.GetType()],
			Required:    s.GetRequired(),
			Default:     s.GetDefaultValue(),
			MinLength:   int(s.GetMinLength()),
			MaxLength:   int(s.GetMaxLength()),
			Pattern:     s.GetPattern(),
			Values:      s.GetValues(),
			InstallOnly: s.GetInstallOnly(),
			Description: s.GetDescription(),
		})
	}
	return d, d.Validate()
}
