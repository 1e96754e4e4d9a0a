package sdk

import (
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"chom.dev/proto/contract"
)

// Settings are the customer's choices by name. What a SiteType sees has been
// through Description.Resolve.
type Settings map[string]string

// Bool reads a setting of type Bool; a missing one is false.
func (s Settings) Bool(name string) bool { return s[name] == "true" }

// Resolve checks the values against the description's settings and fills in
// defaults; an empty value is the same as none. An error is a *FieldError that names the setting, never its text:
// that is hostile input and ends up in logs.
func (d Description) Resolve(values map[string]string) (Settings, error) {
	known := make(map[string]bool, len(d.Settings))
	resolved := make(Settings, len(d.Settings))
	for _, s := range d.Settings {
		known[s.Name] = true
		value := values[s.Name]
		if value == "" {
			if s.Required {
				return nil, &FieldError{Field: "settings." + s.Name, Reason: "is required"}
			}
			resolved[s.Name] = s.Default
			continue
		}
		if reason := s.check(value); reason != "" {
			return nil, &FieldError{Field: "settings." + s.Name, Reason: reason}
		}
		resolved[s.Name] = value
	}
	for name := range values {
		if known[name] {
			continue
		}
		if !settingName.MatchString(name) {
			return nil, &FieldError{Field: "settings", Reason: "hold a name that no setting can have"}
		}
		return nil, &FieldError{Field: "settings." + name, Reason: fmt.Sprintf("is not a setting of site type %s", d.Type)}
	}
	return resolved, nil
}

// check returns why the value does not fit, or "".
func (s Setting) check(value string) string {
	if len(value) > utf8.UTFMax*maxText {
		return fmt.Sprintf("must be at most %d characters", s.limit())
	}
	if !utf8.ValidString(value) {
		return "must be valid UTF-8"
	}
	if !printable(value) {
		return "must not hold control, line separating or direction characters"
	}
	switch s.Type {
	case Bool:
		if value != "true" && value != "false" {
			return `must be "true" or "false"`
		}
	case Enum:
		if !slices.Contains(s.Values, value) {
			return "must be one of the allowed values"
		}
	case Email:
		if _, err := contract.ParseEmail(value); err != nil {
			return err.Error()
		}
	case String:
		switch n := utf8.RuneCountInString(value); {
		case n > s.limit():
			return fmt.Sprintf("must be at most %d characters", s.limit())
		case n < s.MinLength:
			return fmt.Sprintf("must be at least %d characters", s.MinLength)
		}
	}
	if s.Pattern != "" {
		pattern, err := s.pattern()
		if err != nil {
			return "has a pattern that is not a valid expression"
		}
		if !pattern.MatchString(value) {
			return "must match " + s.Pattern
		}
	}
	return ""
}

// unprintable lists what contract.Title refuses too, joiners excepted: emoji
// and several scripts need those.
func unprintable(r rune) bool {
	return r != '\u200d' && r != '\u200c' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
}
