package contract

import "crypto/rand"

// Handle is the short, opaque, random name of a site on its host. Everything
// that needs a name there is derived from it, so no customer text ever becomes
// a user, schema, path or unit name. Ten characters of a-z2-7 (50 bits).
type Handle struct{ name[handleRule] }

// UnixUser is the name of a site's user and group on its host: "s-" + handle.
type UnixUser struct{ name[unixUserRule] }

// DBName is the name of a site's MariaDB schema: "s" + handle. It holds
// neither "_" nor "%", which are wildcards in grants.
type DBName struct{ name[dbNameRule] }

const (
	handleLen      = 10
	handleAlphabet = "abcdefghijklmnopqrstuvwxyz234567"
)

// ParseHandle accepts exactly ten characters of a-z2-7.
func ParseHandle(s string) (Handle, error) {
	var h Handle
	return h, h.set(s)
}

// ParseUnixUser accepts "s-" followed by a handle.
func ParseUnixUser(s string) (UnixUser, error) {
	var u UnixUser
	return u, u.set(s)
}

// ParseDBName accepts "s" followed by a handle.
func ParseDBName(s string) (DBName, error) {
	var n DBName
	return n, n.set(s)
}

// NewHandle draws a random handle. Whether it is taken is for the caller to
// find out.
func NewHandle() Handle {
	var b [handleLen]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	for i := range b {
		b[i] = handleAlphabet[b[i]%byte(len(handleAlphabet))] // 32 divides 256: no bias
	}
	return Handle{name[handleRule]{string(b[:])}}
}

// UnixUser is the user and group that own the site's files and processes, and
// also the name of its database account.
func (h Handle) UnixUser() UnixUser { return UnixUser{name[unixUserRule]{h.prefixed("s-", "")}} }

// DBName is the site's schema.
func (h Handle) DBName() DBName { return DBName{name[dbNameRule]{h.prefixed("s", "")}} }

// ScratchDB is the schema in which a backup's tables are put together before
// they take the place of the site's: "r" + handle. The site's account has no
// rights on it.
func (h Handle) ScratchDB() DBName { return DBName{name[dbNameRule]{h.prefixed("r", "")}} }

// UndoDB is the schema that keeps what a restore has replaced: "u" + handle. The
// site's account has no rights on it.
func (h Handle) UndoDB() DBName { return DBName{name[dbNameRule]{h.prefixed("u", "")}} }

// ImportUser is the database account that a backup's SQL is carried out as, with
// rights on ScratchDB alone: "r-" + handle. No unix user has that name.
func (h Handle) ImportUser() UnixUser { return UnixUser{name[unixUserRule]{h.prefixed("r-", "")}} }

// Slice is the systemd slice that holds every process of the site.
func (h Handle) Slice() string { return h.prefixed("chom-", ".slice") }

// PHPUnit is the service that runs the site's own php-fpm master.
func (h Handle) PHPUnit() string { return h.prefixed("chom-php-", ".service") }

// CronService is the service that the site's timer starts.
func (h Handle) CronService() string { return h.prefixed("chom-cron-", ".service") }

// CronTimer is the timer that replaces the application's own cron.
func (h Handle) CronTimer() string { return h.prefixed("chom-cron-", ".timer") }

// prefixed keeps derived names of the zero handle empty: "s-" alone must not
// look like a name.
func (h Handle) prefixed(before, after string) string {
	if h.IsZero() {
		return ""
	}
	return before + h.text + after
}

// Handle is the site handle in a site user's name.
func (u UnixUser) Handle() Handle {
	if u.IsZero() {
		return Handle{}
	}
	return Handle{name[handleRule]{u.text[len("s-"):]}}
}

type (
	handleRule   struct{}
	unixUserRule struct{}
	dbNameRule   struct{}
)

func (handleRule) parse(s string) (string, error) {
	if !isHandle(s) {
		return "", invalid("handle", "must be ten characters of a-z and 2-7")
	}
	return s, nil
}

func (unixUserRule) parse(s string) (string, error) {
	if len(s) < 2 || s[:2] != "s-" || !isHandle(s[2:]) {
		return "", invalid("unix user", `must be "s-" and ten characters of a-z and 2-7`)
	}
	return s, nil
}

func (dbNameRule) parse(s string) (string, error) {
	if len(s) < 1 || s[0] != 's' || !isHandle(s[1:]) {
		return "", invalid("database name", `must be "s" and ten characters of a-z and 2-7`)
	}
	return s, nil
}

func isHandle(s string) bool {
	return len(s) == handleLen && only(s, func(c byte) bool { return isLower(c) || c >= '2' && c <= '7' })
}
