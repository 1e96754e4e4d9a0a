package webhook

import (
	"net/url"
	"strconv"
	"strings"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

const maxURL = 500 // characters

var errURL = fault.Invalid("url", "must be https://NAME/..., a domain name without a user or a fragment, on port 443 or one above 1023, in at most 500 plain characters")

// checkURL refuses what is no address of a receiver. That a name leads to a public address is decided when it is called.
func checkURL(text string) error {
	if len(text) > maxURL {
		return errURL
	}
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'<>\\^`{|}", c) >= 0 {
			return errURL
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || strings.Contains(text, "#") {
		return errURL
	}
	if _, err := contract.ParseDomain(u.Hostname()); err != nil {
		return errURL
	}
	// Services below 1024 are others' mail and shells: they need no calls in our name.
	if port := u.Port(); port != "" && port != "443" {
		if n, err := strconv.Atoi(port); err != nil || n < 1024 || n > 65535 {
			return errURL
		}
	} else if port == "" && strings.HasSuffix(u.Host, ":") {
		return errURL
	}
	return nil
}

// hostOf is what is shown of a URL where it need not be whole: its path may be a secret between organization and receiver.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "" // it was checked
	}
	return u.Hostname()
}
