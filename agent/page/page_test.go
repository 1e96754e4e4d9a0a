package page

import (
	"strings"
	"testing"
)

func TestTitle(t *testing.T) {
	for body, want := range map[string]string{
		"":        "",
		"<p>none": "",
		"<html><TITLE id=x>\n A &amp;\n  B </title><title>c</title>": "A & B",
		strings.Repeat(" ", head) + "<title>late</title>":            "",
	} {
		if got := Title([]byte(body)); got != want {
			t.Errorf("of %.40q it is %q, want %q", body, got, want)
		}
	}
}
