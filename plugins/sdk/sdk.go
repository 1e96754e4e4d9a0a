// Package sdk is what the author of a site type plugin imports. A site type
// knows one application: how to put it into a site's tree and database, how to
// tell whether it is well, how to let its owner in. It knows nothing of users,
// web servers, PHP pools, schemas or timers: the agent makes those, as root,
// before and after it calls the plugin.
//
// A plugin is a program called chom-plugin-TYPE with this main function:
//
//	func main() { sdk.Serve(hello{}) }
//
// where hello is a SiteType (see the example of Serve). The agent starts it on
// demand as the site's unix user, in a sandbox where only the site's tree can
// be written, and speaks to it over hashicorp/go-plugin: gRPC on a unix socket
// with a certificate for each side made for this one run. None of that is
// visible here.
//
// What an author may rely on:
//
//   - Site is checked against the Description before it arrives: paths are
//     absolute, names are of their types, settings are known, valid and filled
//     up with their defaults.
//   - The umask is 027, slog's default logger reaches the agent's log, a panic
//     becomes an error, and the process ends when the agent goes away.
//   - Packages archive and php, below this one, unpack an application and run
//     php-cli with the limits that a hostile tree demands.
//
// What the agent relies on: every call can be repeated after being killed at
// any moment, and ends in the same state. Package sdktest holds the tests that
// prove it for any plugin.
package sdk

import (
	"context"
	"crypto/sha256"
	"time"

	"chom.dev/proto/contract"
)

// SiteType is one application's knowledge. Calls for one site never overlap;
// each carries a deadline in its context and must return soon after it is
// done.
//
// Errors: a *FieldError blames an input; Permanent says that repeating can't
// help; ErrNotInstalled says that there is no application yet. Any other error
// is shown to people and the call is tried again later.
type SiteType interface {
	// Describe says what the type needs and offers: always the same.
	Describe() Description

	// Install brings the application into the tree and the database and
	// returns what it measured there. Called again after any interruption it
	// finishes what is missing; on an installed site it changes nothing. Until
	// it succeeds nothing below the document root may answer a visitor with an
	// installer. progress may be called often; it only informs.
	Install(ctx context.Context, site Site, progress func(Progress)) (State, error)

	// Update brings an installed application to the site's present domain and
	// settings. Files and data of the customer stay as they are.
	Update(ctx context.Context, site Site) (State, error)

	// Check measures and changes nothing.
	Check(ctx context.Context, site Site) (State, error)
}

// LoginOffer is implemented by site types that can let the owner in. Types
// without it answer ErrUnsupported.
type LoginOffer interface {
	// ArmLogin lets one visitor in as administrator: the first one who asks for
	// the home page with the parameter LoginParameter holding the login's token,
	// before it expires. What is stored on the site must not suffice to get in.
	ArmLogin(ctx context.Context, site Site, login Login) error
}

// Site is what a plugin may know about the site it works on.
type Site struct {
	Handle   contract.Handle // opaque name of the site on its host
	Tree     string          // absolute path; Public and Private are below it
	Domain   contract.Domain // the primary domain
	HTTPS    bool            // reached by https, otherwise by http
	Settings Settings        // complete and valid when a SiteType sees them
	PHP      string          // absolute path of php-cli; empty unless the type needs PHP
	Database *Database       // nil unless the type needs a database
	Archive  *Archive        // nil unless the type needs one and the call is Install
}

// URL is the address of the home page without a slash at its end.
func (s Site) URL() string {
	if s.HTTPS {
		return "https://" + s.Domain.String()
	}
	return "http://" + s.Domain.String()
}

// Database is the site's own schema. Connect to the socket as User without a
// password: the kernel vouches for the process.
type Database struct {
	Name   contract.DBName
	User   contract.UnixUser
	Socket string // absolute path
}

// Archive is an application archive, gzip-compressed tar, that the agent
// fetched. The sum must be checked again while reading.
type Archive struct {
	Path   string // absolute
	SHA256 string // 64 lower-case hexadecimal digits
}

// Progress is how far a call has come, for people.
type Progress struct {
	Step     string  // short: "extract"
	Message  string  // a sentence
	Fraction float64 // of the whole call, 0 to 1
}

// State is what was measured on a site.
type State struct {
	Installed       bool   // complete and answering: all that Install promises
	Version         string // of the application, if it has one
	DatabaseVersion string // of its schema, if it has one
	// HomeTitle is text that the <title> of the home page must hold, escaped
	// as it is served. Empty: nothing is promised about the home page.
	HomeTitle string
	Findings  []Finding // at most 64 reach the agent
}

// Severity of a finding.
type Severity int

// The severities, mild to grave.
const (
	Notice  Severity = 1 // worth knowing
	Warning Severity = 2 // works, but needs someone's attention
	Problem Severity = 3 // the site does not work as it should
)

// Finding is one thing that a check noticed.
type Finding struct {
	Code     string // stable, for programs: "files-missing"
	Severity Severity
	Message  string // for people
}

// LoginParameter is the parameter of the home page's address that carries a
// login's token: 43 characters of base64url, 256 bits.
const LoginParameter = "chom_login"

// Login is a one-use login to arm. Whoever ordered it holds the token; the
// site only ever learns its hash.
type Login struct {
	TokenSHA256 [sha256.Size]byte // of the token's text
	Expires     time.Time         // at most MaxLoginLifetime ahead
}

// MaxLoginLifetime is how long a login may live: long enough for a redirect on
// a slow line, short enough that a leaked log line is stale.
const MaxLoginLifetime = 60 * time.Second
