// Package install is how an agent reaches a server: the install script, the packages that it fetches, and the one line
// that an operator pastes. It knows nothing of what the agent does afterwards.
//
// # Why the line looks as it does
//
//		printf '%s\n' 'TOKEN' | $(command -v sudo) sh -c 'set -eu; d=$(mktemp -d); trap "rm -rf $d" EXIT; cd "$d";
//		  curl -fsSLO URL/install.sh; echo "HASH  install.sh" | sha256sum --quiet -c;
//		  sh install.sh --url URL --agents HOST:PORT --packages HASH'
//
//	  - The script is static: chomd never fills anything in, so no text from a request or from a database can become shell
//	    code on a server (a link with a quote or a line break in it was somebody's remote root once). What differs from
//	    server to server travels as arguments of a strict alphabet, checked here when the line is made and again by the script.
//	  - The join token is a secret for 30 minutes. printf is built into every shell, so the token is in no argument list
//	    (which every user of a host can read); it goes through a pipe, so it is in no environment either. The script keeps it
//	    in a variable that it does not export, hands it to the agent in a file that only root can read, and removes that.
//	  - sudo closes every descriptor but the first three, which leaves standard input as the only way through it. So the
//	    token takes standard input and the script comes from a file. $(command -v sudo) is nothing on a system without
//	    sudo, where one is root.
//	  - Trust comes from where the line was copied: an operator's terminal, signed in to the control plane. The line holds
//	    the SHA-256 of the script, and the SHA-256 of the list of package checksums. Whoever changes the script, the list or a
//	    package on the way, even over plain HTTP, is noticed before anything runs. TLS to a public name adds privacy,
//	    but nothing here depends on it; the agent's own connection is pinned by the CA hash in the token.
//	  - The cost: a line dies when the packages are replaced. It fails closed, says so, and lives for 30 minutes anyway.
package install

import (
	"crypto/sha256"
	_ "embed" // the script
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
)

//go:embed install.sh
var script []byte

// Script is the install script, the same bytes for everybody.
func Script() []byte { return script }

// ScriptSHA256 is the checksum of the install script, in hex.
func ScriptSHA256() string { return checksum(script) }

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Address is where a server finds the control plane.
type Address struct {
	URL    string // of the people's listener: http(s)://HOST[:PORT], nothing after it
	Agents string // HOST:PORT of the agents' listener
}

// The script repeats these alphabets. No character in them means anything to a shell between single quotes, or within
// the double quotes inside them.
var (
	hostPattern  = `([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,39}\])`
	urlPattern   = regexp.MustCompile(`^https?://` + hostPattern + `(:[0-9]{1,5})?$`)
	agentPattern = regexp.MustCompile(`^` + hostPattern + `:[0-9]{1,5}$`)
	tokenPattern = regexp.MustCompile(`^chom1\.[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{20,128}\.[A-Za-z0-9_-]{43,64}$`)
	hashPattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Validate says what is wrong with an address, in words for whoever configured it.
func (a Address) Validate() error {
	if err := ValidateURL(a.URL); err != nil {
		return err
	}
	return ValidateAgents(a.Agents)
}

// ValidateURL accepts http(s)://HOST[:PORT] without anything after it.
func ValidateURL(s string) error {
	if !urlPattern.MatchString(s) {
		return fmt.Errorf("must be http(s)://HOST or http(s)://HOST:PORT")
	}
	if _, err := url.Parse(s); err != nil {
		return fmt.Errorf("must be a URL")
	}
	return nil
}

// ValidateAgents accepts HOST:PORT.
func ValidateAgents(s string) error {
	if !agentPattern.MatchString(s) {
		return fmt.Errorf("must be HOST:PORT")
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		return fmt.Errorf("must be HOST:PORT")
	}
	return nil
}

// Line is the one line to paste on a server, as root or as somebody who may sudo. packagesSHA256 is the checksum of the
// list of packages. It refuses anything that is not of its strict alphabet.
func Line(a Address, token, packagesSHA256 string) (string, error) {
	if err := a.Validate(); err != nil {
		return "", fmt.Errorf("control plane's address: %w", err)
	}
	if !tokenPattern.MatchString(token) {
		return "", fmt.Errorf("join token is not of its form") // never with the token in it
	}
	if !hashPattern.MatchString(packagesSHA256) {
		return "", fmt.Errorf("checksum of the packages is not 64 hexadecimal digits")
	}
	return strings.NewReplacer(
		"TOKEN", token,
		"URL", a.URL,
		"AGENTS", a.Agents,
		"SCRIPT", ScriptSHA256(),
		"PACKAGES", packagesSHA256,
	).Replace(line), nil
}

const line = `printf '%s\n' 'TOKEN' | $(command -v sudo) sh -c 'set -eu; d=$(mktemp -d); trap "rm -rf $d" EXIT; cd "$d"; ` +
	`curl -fsSLO URL/install.sh; echo "SCRIPT  install.sh" | sha256sum --quiet -c; ` +
	`sh install.sh --url URL --agents AGENTS --packages PACKAGES'`
