package contract

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SiteType names the plugin that knows the application, e.g. "wordpress".
type SiteType struct{ name[siteTypeRule] }

// ParseSiteType accepts a lower-case letter followed by up to 30 lower-case
// letters, digits and hyphens.
func ParseSiteType(s string) (SiteType, error) {
	var t SiteType
	return t, t.set(s)
}

// Title is a line of free text that people wrote: 1 to 200 characters of valid
// UTF-8 without control, line separating or text-direction characters. It may
// hold quotes, semicolons and angle brackets: every sink must quote it.
type Title struct{ name[titleRule] }

// ParseTitle trims spaces at both ends and checks the rest.
func ParseTitle(s string) (Title, error) {
	var t Title
	return t, t.set(s)
}

// Email is an address of the plain kind, local@domain, with a lower-cased
// domain. Quoted local parts, comments and literals are refused.
type Email struct{ name[emailRule] }

// ParseEmail checks the local part and parses the rest as a Domain.
func ParseEmail(s string) (Email, error) {
	var e Email
	return e, e.set(s)
}

// PHPVersion is a release line of PHP, e.g. "8.2".
type PHPVersion struct{ name[phpVersionRule] }

// ParsePHPVersion accepts MAJOR.MINOR.
func ParsePHPVersion(s string) (PHPVersion, error) {
	var v PHPVersion
	return v, v.set(s)
}

type (
	siteTypeRule   struct{}
	titleRule      struct{}
	emailRule      struct{}
	phpVersionRule struct{}
)

const maxSiteType = 31

func (siteTypeRule) parse(s string) (string, error) {
	const kind = "site type"
	if s == "" || len(s) > maxSiteType {
		return "", invalid(kind, "must be 1 to 31 characters")
	}
	if !isLower(s[0]) || !only(s, func(c byte) bool { return isLower(c) || isDigit(c) || c == '-' }) {
		return "", invalid(kind, "must start with a lower-case letter and hold only lower-case letters, digits and hyphens")
	}
	return s, nil
}

const (
	maxTitle      = 200          // characters
	maxTitleBytes = 4 * maxTitle // refuse before counting runes of a megabyte
	maxEmail      = 254          // RFC 5321 path without its brackets
	maxEmailLocal = 64           // RFC 5321
)

func (titleRule) parse(s string) (string, error) {
	const kind = "title"
	if len(s) > maxTitleBytes {
		return "", invalid(kind, "must be at most 200 characters")
	}
	if !utf8.ValidString(s) {
		return "", invalid(kind, "must be valid UTF-8")
	}
	for _, r := range s {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) && r != '\u200d' && r != '\u200c' {
			return "", invalid(kind, "must not hold control, line separating or direction characters")
		}
	}
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", invalid(kind, "must not be empty")
	case s[0] == '-':
		return "", invalid(kind, "must not start with a hyphen")
	case utf8.RuneCountInString(s) > maxTitle:
		return "", invalid(kind, "must be at most 200 characters")
	}
	return s, nil
}

func (emailRule) parse(s string) (string, error) {
	const kind = "email"
	if s == "" || len(s) > maxEmail {
		return "", invalid(kind, "must be 1 to 254 characters")
	}
	local, host, found := strings.Cut(s, "@")
	if !found {
		return "", invalid(kind, "must hold an @")
	}
	if local == "" || len(local) > maxEmailLocal {
		return "", invalid(kind, "the part before the @ must be 1 to 64 characters")
	}
	if !only(local, func(c byte) bool {
		return isLower(c) || isDigit(c) || c >= 'A' && c <= 'Z' || strings.IndexByte("._+-", c) >= 0
	}) {
		return "", invalid(kind, "the part before the @ may hold only letters, digits and . _ + -")
	}
	if local[0] == '-' || local[0] == '.' || local[len(local)-1] == '.' || strings.Contains(local, "..") {
		return "", invalid(kind, "the part before the @ must not start with a hyphen or dot, end with a dot or hold two dots in a row")
	}
	d, err := ParseDomain(host)
	if err != nil {
		return "", invalid(kind, "the part after the @ must be a domain name")
	}
	return local + "@" + d.text, nil
}

func (phpVersionRule) parse(s string) (string, error) {
	major, minor, found := strings.Cut(s, ".")
	if !found || len(major) != 1 || len(minor) < 1 || len(minor) > 2 ||
		!only(major, isDigit) || !only(minor, isDigit) || major == "0" || len(minor) == 2 && minor[0] == '0' {
		return "", invalid("php version", `must look like "8.2"`)
	}
	return s, nil
}

// ByteSize is an amount of memory or disk, at least one byte. It is written
// as a number with an optional binary unit: 64M is 64 * 1024 * 1024 bytes.
type ByteSize struct{ n int64 }

// ParseByteSize accepts digits and one of the units K, M, G, T, or none.
func ParseByteSize(s string) (ByteSize, error) {
	const kind = "byte size"
	shift := 0
	digits := s
	if s != "" {
		if i := strings.IndexByte(units, s[len(s)-1]); i >= 0 {
			shift, digits = 10*(i+1), s[:len(s)-1]
		}
	}
	if digits == "" || len(digits) > 19 || !only(digits, isDigit) {
		return ByteSize{}, invalid(kind, "must be a number with an optional unit of K, M, G or T")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return ByteSize{}, invalid(kind, "is too large")
	}
	return NewByteSize(n << shift)
}

// NewByteSize takes a number of bytes; it must be positive.
func NewByteSize(n int64) (ByteSize, error) {
	if n <= 0 {
		return ByteSize{}, invalid("byte size", "must be positive")
	}
	return ByteSize{n}, nil
}

const units = "KMGT"

// Bytes is the amount; 0 for the zero value, which is invalid.
func (b ByteSize) Bytes() int64 { return b.n }

// IsZero reports whether nothing was parsed into the value.
func (b ByteSize) IsZero() bool { return b.n == 0 }

// String writes the amount in the largest unit that loses nothing; nginx, PHP
// and systemd read it alike.
func (b ByteSize) String() string {
	n, unit := b.n, ""
	for i := 0; i < len(units)-1 && n != 0 && n%1024 == 0; i++ {
		n, unit = n/1024, units[i:i+1]
	}
	return strconv.FormatInt(n, 10) + unit
}

// MarshalText writes the same text as String.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText applies the same check as ParseByteSize.
func (b *ByteSize) UnmarshalText(text []byte) error {
	v, err := ParseByteSize(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}
