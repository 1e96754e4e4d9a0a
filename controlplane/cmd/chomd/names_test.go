package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestNamesConfig(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a budget for nobody":     {[]string{"--certificate-budget", "0"}, "certificate-budget: must be above 0"},
		"a resolver that is none": {[]string{"--resolver", "dns.example"}, "resolver: must be HOST:PORT"},
		"an unknown proof":        {[]string{"--domain-proof", "maybe"}, "domain-proof: must be"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(t.Context(), append([]string{"validate"}, test.args...), &out, &out); code != exitUsage || !strings.Contains(out.String(), test.want) {
				t.Errorf("exit code %d: %s", code, out.String())
			}
		})
	}
}
