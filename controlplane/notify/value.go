package notify

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

var errTemplate = errors.New("there is no such template")

// check refuses a mail that its template cannot show, and gives the values as they are shown.
func check(mail Mail, public *url.URL) (mailKind, map[string]string, error) {
	of, ok := catalog[mail.Template]
	if !ok {
		return mailKind{}, nil, errTemplate
	}
	if mail.To.IsZero() {
		return mailKind{}, nil, errors.New("it has no recipient")
	}
	shown := map[string]string{}
	for name, value := range mail.Values {
		if !slices.Contains(of.values, name) {
			return mailKind{}, nil, fmt.Errorf("it shows no value %q", name)
		}
		var err error
		if shown[name], err = show(meanings[name].kind, value, public); err != nil {
			return mailKind{}, nil, fmt.Errorf("value %q: %w", name, err)
		}
	}
	for _, name := range of.values {
		if _, ok := shown[name]; !ok {
			return mailKind{}, nil, fmt.Errorf("value %q is missing", name)
		}
	}
	return of, shown, nil
}

// show gives a value as people see it. Errors never repeat it.
func show(k kind, value string, public *url.URL) (string, error) {
	switch k {
	case link:
		return value, checkLink(value, public)
	case moment:
		t, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return "", errors.New("must be a time of RFC 3339")
		}
		return t.UTC().Format("2 January 2006, 15:04 UTC"), nil
	default:
		return clean(value), nil
	}
}

const maxLink = 2000 // what all browsers and mail programs take

// checkLink accepts URLs below the public one, in characters that need no quoting anywhere in a mail.
func checkLink(value string, public *url.URL) error {
	for _, c := range []byte(value) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'<>\\^`{|}", c) >= 0 {
			return errors.New("must be a URL in plain characters")
		}
	}
	u, err := url.Parse(value)
	if err != nil || len(value) > maxLink {
		return errors.New("must be a URL of at most 2000 characters")
	}
	if u.Scheme != public.Scheme || u.Host != public.Host || u.User != nil || u.Opaque != "" {
		return errors.New("must begin with the public URL")
	}
	return nil
}

const maxLine = 150 // characters: nobody reads more of a name

// clean makes one line of a text that people wrote, without characters that hide or turn around what they stand next to.
// Mail programs make links of what looks like one: a name does not.
func clean(value string) string {
	value = strings.ToValidUTF8(value, "")
	value = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co):
			return -1
		}
		return r
	}, value)
	value = strings.ReplaceAll(value, "://", ": //")
	value = strings.Join(strings.Fields(value), " ")
	if runes := []rune(value); len(runes) > maxLine {
		value = string(runes[:maxLine-1]) + "…"
	}
	return value
}
