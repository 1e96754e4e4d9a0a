package sdk

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"chom.dev/proto/contract"
)

// Description is what a site type needs and offers. It is the same for every
// site, so the package that ships a plugin ships its description as a file too
// (chom-plugin-TYPE describe prints it) and the agent trusts that file, never
// the answer of a process that runs as a tenant's user.
type Description struct {
	Type    contract.SiteType `json:"type"`
	Version string            `json:"version"` // of the plugin: 1 to 64 printable characters

	NeedsPHP      bool `json:"needs_php,omitempty"`
	NeedsDatabase bool `json:"needs_database,omitempty"`
	NeedsArchive  bool `json:"needs_archive,omitempty"`
	OffersLogin   bool `json:"offers_login,omitempty"` // filled in by Serve: the type is a LoginOffer

	// DocumentRoot is served by nginx; relative to the tree.
	DocumentRoot string `json:"document_root"`
	// FrontController answers every address without a file of its own;
	// relative to the document root. Empty: such addresses are 404.
	FrontController string `json:"front_controller,omitempty"`
	// UploadDirs, relative to the document root, must not run PHP.
	UploadDirs []string `json:"upload_dirs,omitempty"`
	// DeniedFiles, relative to the document root, are neither served nor run.
	DeniedFiles []string `json:"denied_files,omitempty"`

	Crons    []Cron    `json:"crons,omitempty"`
	Settings []Setting `json:"settings,omitempty"`
}

// Cron is a PHP script that the agent runs at an interval as the site user.
type Cron struct {
	Name      string        `json:"name"`
	PHPScript string        `json:"php_script"` // relative to the tree
	Interval  time.Duration `json:"interval"`   // 1 min to 24 h; a run still going is not doubled
	Limit     time.Duration `json:"limit"`      // 1 s to 1 h; then the run is ended
}

// SettingType says how the text of a setting is read.
type SettingType string

// The setting types.
const (
	String SettingType = "string" // one line of text without control characters
	Email  SettingType = "email"
	Bool   SettingType = "bool" // "true" or "false"
	Enum   SettingType = "enum" // one of Values
)

// Setting is one value that the customer may choose.
type Setting struct {
	Name        string      `json:"name"`
	Type        SettingType `json:"type"`
	Required    bool        `json:"required,omitempty"`
	Default     string      `json:"default,omitempty"`
	MinLength   int         `json:"min_length,omitempty"`   // characters, strings only
	MaxLength   int         `json:"max_length,omitempty"`   // 0: 1000
	Pattern     string      `json:"pattern,omitempty"`      // RE2, must match the whole text
	Values      []string    `json:"values,omitempty"`       // of an Enum
	InstallOnly bool        `json:"install_only,omitempty"` // a later change has no effect
	Description string      `json:"description,omitempty"`
}

// What a description may hold at most: far above any real type, far below what
// would hurt the agent that reads it.
const (
	maxUploadDirs  = 16
	maxDeniedFiles = 32
	maxCrons       = 8
	maxSettings    = 64
	maxEnumValues  = 64
	maxPattern     = 200
	maxText        = 1000 // one setting's text, and any text for people
	maxPath        = 200
)

var (
	cronName    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	settingName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	plainPath   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)
)

// Validate reports everything that is wrong with the description, each error
// naming its field.
func (d Description) Validate() error {
	var errs []error
	bad := func(field, reason string) { errs = append(errs, &FieldError{Field: field, Reason: reason}) }
	path := func(field, p string) {
		if len(p) > maxPath || !fs.ValidPath(p) || !plainPath.MatchString(p) {
			bad(field, "must be a plain relative path")
		}
	}
	if d.Type.IsZero() {
		bad("type", "must not be empty")
	}
	if d.Version == "" || len(d.Version) > 64 || !printable(d.Version) {
		bad("version", "must be 1 to 64 printable characters")
	}
	path("document_root", d.DocumentRoot)
	if d.FrontController != "" {
		path("front_controller", d.FrontController)
	}
	if len(d.UploadDirs) > maxUploadDirs {
		bad("upload_dirs", fmt.Sprintf("must be at most %d", maxUploadDirs))
	}
	for i, p := range d.UploadDirs {
		path(fmt.Sprintf("upload_dirs[%d]", i), p)
	}
	if len(d.DeniedFiles) > maxDeniedFiles {
		bad("denied_files", fmt.Sprintf("must be at most %d", maxDeniedFiles))
	}
	for i, p := range d.DeniedFiles {
		path(fmt.Sprintf("denied_files[%d]", i), p)
	}
	d.validateCrons(bad, path)
	d.validateSettings(bad)
	return errors.Join(errs...)
}

func (d Description) validateCrons(bad, path func(field, reason string)) {
	if len(d.Crons) > maxCrons {
		bad("crons", fmt.Sprintf("must be at most %d", maxCrons))
	}
	if len(d.Crons) > 0 && !d.NeedsPHP {
		bad("crons", "need PHP")
	}
	seen := map[string]bool{}
	for i, c := range d.Crons {
		field := fmt.Sprintf("crons[%d].", i)
		if !cronName.MatchString(c.Name) || seen[c.Name] {
			bad(field+"name", "must be a unique lower-case name")
		}
		seen[c.Name] = true
		path(field+"php_script", c.PHPScript)
		if c.Interval < time.Minute || c.Interval > 24*time.Hour || c.Interval%time.Second != 0 {
			bad(field+"interval", "must be whole seconds from 1 min to 24 h")
		}
		if c.Limit < time.Second || c.Limit > time.Hour || c.Limit%time.Second != 0 {
			bad(field+"limit", "must be whole seconds from 1 s to 1 h")
		}
	}
}

func (d Description) validateSettings(bad func(field, reason string)) {
	if len(d.Settings) > maxSettings {
		bad("settings", fmt.Sprintf("must be at most %d", maxSettings))
	}
	seen := map[string]bool{}
	for i, s := range d.Settings {
		field := fmt.Sprintf("settings[%d].", i)
		if !settingName.MatchString(s.Name) || seen[s.Name] {
			bad(field+"name", "must be a unique lower-case name")
		}
		seen[s.Name] = true
		if !slices.Contains([]SettingType{String, Email, Bool, Enum}, s.Type) {
			bad(field+"type", "must be string, email, bool or enum")
		}
		if s.MinLength < 0 || s.MaxLength < 0 || s.MaxLength > maxText || s.MinLength > s.limit() {
			bad(field+"max_length", "lengths must be between 0 and 1000, the shortest not above the longest")
		}
		if (s.Type == Enum) != (len(s.Values) > 0) || len(s.Values) > maxEnumValues {
			bad(field+"values", fmt.Sprintf("must be 1 to %d for an enum and none otherwise", maxEnumValues))
		}
		for _, v := range s.Values {
			if len(v) > maxText || !printable(v) {
				bad(field+"values", "must be printable and at most 1000 bytes each")
				break
			}
		}
		if len(s.Pattern) > maxPattern {
			bad(field+"pattern", fmt.Sprintf("must be at most %d characters", maxPattern))
		} else if _, err := s.pattern(); err != nil {
			bad(field+"pattern", "must be a valid RE2 expression")
		}
		if len(s.Description) > maxText || !printable(s.Description) {
			bad(field+"description", "must be printable and at most 1000 bytes")
		}
		switch {
		case s.Required && s.Default != "":
			bad(field+"default", "must be empty for a required setting")
		case !s.Required && s.Default != "":
			if reason := s.check(s.Default); reason != "" {
				bad(field+"default", reason)
			}
		}
	}
}

func (s Setting) limit() int {
	if s.MaxLength == 0 {
		return maxText
	}
	return s.MaxLength
}

func (s Setting) pattern() (*regexp.Regexp, error) { return regexp.Compile(`^(?:` + s.Pattern + `)$`) }

// printable reports valid UTF-8 without control, separator or direction
// characters: such text can be shown, logged and stored anywhere.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable)
}
