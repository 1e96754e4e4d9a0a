package webhook

import (
	"strings"
	"testing"
)

func TestCheckURL(t *testing.T) {
	for _, fine := range []string{
		"https://example.com", "https://example.com/", "https://Hooks.Example.com/a/b?c=d&e=%20", "https://example.com:443/", "https://example.com:8443/x",
		"https://xn--bcher-kva.example/hook",
	} {
		if err := checkURL(fine); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
	for name, wrong := range map[string]string{
		"nothing": "", "in clear": "http://example.com/", "another scheme": "ftp://example.com/", "a file": "file:///etc/passwd", "gopher": "gopher://example.com/",
		"no host": "https:///x", "no scheme": "example.com/hook", "loopback": "https://127.0.0.1/", "IPv6": "https://[::1]/", "mapped": "https://[::ffff:127.0.0.1]/",
		"metadata": "https://169.254.169.254/", "decimal": "https://2130706433/", "octal": "https://0177.0.0.1/", "hexadecimal": "https://0x7f.0.0.1/",
		"hexadecimal in one": "https://0x7f000001/", "short": "https://127.1/", "localhost": "https://localhost/", "a bare name": "https://db/", "a public address": "https://8.8.8.8/",
		"a trailing dot": "https://example.com./", "a user": "https://user@example.com/", "a password": "https://u:p@example.com/", "a fragment": "https://example.com/#x",
		"an empty fragment": "https://example.com/#", "the shell's port": "https://example.com:22/", "the mail's port": "https://example.com:25/", "port 0": "https://example.com:0/",
		"a port too high": "https://example.com:65536/", "an empty port": "https://example.com:/", "a space": "https://example.com/a b", "a line break": "https://example.com/\r\nX: y",
		"NUL": "https://example.com/\x00", "a backslash": `https://example.com\@evil.example/`, "umlauts": "https://bücher.example/", "an encoded dot": "https://127%2e0.0.1/",
		"length": "https://example.com/" + strings.Repeat("a", maxURL),
	} {
		if err := checkURL(wrong); err == nil {
			t.Errorf("%s is taken: %s", name, wrong)
		}
	}
}
