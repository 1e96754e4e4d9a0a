package outbound

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestPublic(t *testing.T) {
	text, err := os.ReadFile("testdata/special.txt")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] == "#" {
			continue
		}
		block := netip.MustParsePrefix(fields[1])
		for _, a := range []netip.Addr{block.Addr(), last(block)} {
			tried++
			if got := Public(a); got != (fields[0] == "public") {
				t.Errorf("%s: public is %v", line, got)
			}
		}
	}
	if tried < 130 {
		t.Errorf("only %d addresses were tried", tried)
	}
	for name, a := range map[string]netip.Addr{"no address": {}, "an address with a zone": netip.MustParseAddr("2a00::1%eth0")} {
		if Public(a) {
			t.Errorf("%s is public", name)
		}
	}
}

// last is the highest address of a block.
func last(block netip.Prefix) netip.Addr {
	b := block.Addr().AsSlice()
	for i := block.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
