package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// parsers lists every typed name with a value that must pass.
var parsers = []struct {
	kind  string
	good  string
	parse func(string) (fmt.Stringer, error)
}{
	{"domain", "www.example.com", func(s string) (fmt.Stringer, error) { return ParseDomain(s) }},
	{"organization id", "01890a5d-ac96-774b-bcce-b302099a8057", func(s string) (fmt.Stringer, error) { return ParseOrganizationID(s) }},
	{"server id", "01890a5d-ac96-774b-bcce-b302099a8057", func(s string) (fmt.Stringer, error) { return ParseServerID(s) }},
	{"site id", "01890a5d-ac96-774b-bcce-b302099a8057", func(s string) (fmt.Stringer, error) { return ParseSiteID(s) }},
	{"task id", "01890a5d-ac96-774b-bcce-b302099a8057", func(s string) (fmt.Stringer, error) { return ParseTaskID(s) }},
	{"handle", "abcdefgh27", func(s string) (fmt.Stringer, error) { return ParseHandle(s) }},
	{"unix user", "s-abcdefgh27", func(s string) (fmt.Stringer, error) { return ParseUnixUser(s) }},
	{"database name", "sabcdefgh27", func(s string) (fmt.Stringer, error) { return ParseDBName(s) }},
	{"site type", "wordpress", func(s string) (fmt.Stringer, error) { return ParseSiteType(s) }},
	{"title", "Joe's Café", func(s string) (fmt.Stringer, error) { return ParseTitle(s) }},
	{"email", "joe.bloggs+web@example.com", func(s string) (fmt.Stringer, error) { return ParseEmail(s) }},
	{"php version", "8.2", func(s string) (fmt.Stringer, error) { return ParsePHPVersion(s) }},
	{"byte size", "64M", func(s string) (fmt.Stringer, error) { return ParseByteSize(s) }},
}

// hostile are the strings of case A06. The first group has no place in any
// name; the second is harmless in free text, which every sink quotes.
var (
	hostile = []string{
		"\n", "\r\n", "\x00", "\u2028", "\u202e", "\x1b[31m", "\xff\xfe", "\x7f", "\u0085",
	}
	hostileInIdentifiers = []string{
		";id", "$(id)", "`id`", "../", "/", "\\", "'", "\"", "{", "}", "$", "%0a", "%", "#", " ", "\t", "*", "?",
		"<img onerror=x>", "{{7*7}}", "&&", "|", "ｅ", "é", "=",
	}
)

func TestEveryName(t *testing.T) {
	for _, p := range parsers {
		t.Run(p.kind+"/accepts "+p.good, func(t *testing.T) {
			v, err := p.parse(p.good)
			if err != nil || v.String() != p.good {
				t.Fatalf("parse(%q) = %q, %v", p.good, v, err)
			}
		})
		t.Run(p.kind+"/names itself and not the input when it refuses", func(t *testing.T) {
			const secret = "c4nary;\n"
			_, err := p.parse(secret)
			var inv *InvalidError
			if !errors.As(err, &inv) || inv.Kind != p.kind || inv.Rule == "" {
				t.Fatalf("error %v does not name the kind %q and a rule", err, p.kind)
			}
			if strings.Contains(err.Error(), "c4nary") {
				t.Fatalf("error %q repeats the input", err)
			}
		})
		t.Run(p.kind+"/refuses hostile text at the start, in the middle and at the end", func(t *testing.T) {
			bad := hostile
			if p.kind != "title" {
				bad = append(append([]string{}, hostile...), hostileInIdentifiers...)
			}
			for _, h := range bad {
				mid := len(p.good) / 2
				for _, s := range []string{h, h + p.good, p.good[:mid] + h + p.good[mid:], p.good + h} {
					if v, err := p.parse(s); err == nil {
						t.Errorf("parse(%q) = %q", s, v)
					}
				}
			}
		})
		t.Run(p.kind+"/refuses nothing, a leading hyphen and a megabyte", func(t *testing.T) {
			for _, s := range []string{"", "-", "-" + p.good, "--upload-pack=x", strings.Repeat("a", 1<<20), strings.Repeat("1", 1<<20), strings.Repeat("a.", 1<<19)} {
				if v, err := p.parse(s); err == nil {
					t.Errorf("parse(%.40q...) = %.40q", s, v)
				}
			}
		})
		t.Run(p.kind+"/the result of a refusal is the zero value", func(t *testing.T) {
			if v, err := p.parse(p.good + "\n"); err == nil || (v.String() != "" && v.String() != "0") {
				t.Errorf("got %q, %v", v, err)
			}
		})
	}
}

func TestDomain(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ in, want string }{
		{"EXAMPLE.com", "example.com"},
		{"a.b", "a.b"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"1and1.com", "1and1.com"},
		{"shop.xn--p1ai", "shop.xn--p1ai"},
		{long + ".com", long + ".com"},
	} {
		if d, err := ParseDomain(c.in); err != nil || d.String() != c.want {
			t.Errorf("ParseDomain(%q) = %q, %v, want %q", c.in, d, err, c.want)
		}
	}
	for _, in := range []string{
		"localhost", "example.com.", ".example.com", "a..b", "-a.com", "a-.com", "127.0.0.1", "1.2.3.4", "0x7f.1", "1.0x7f",
		"[::1]", "::1", "*.example.com", "_dmarc.example.com", "a.b:80", "user@a.b", "bücher.example", "ab--cd.com", "xn--.com",
		long + "a.com", strings.Repeat("abcdefg.", 32) + "com",
	} {
		if d, err := ParseDomain(in); err == nil {
			t.Errorf("ParseDomain(%q) = %q, want an error", in, d)
		}
	}
}

func TestPattern(t *testing.T) {
	pattern, err := ParsePattern("*.Example.com")
	if err != nil || pattern.String() != "*.example.com" || !pattern.IsWildcard() || pattern.Base().String() != "example.com" {
		t.Fatalf("ParsePattern = %q, %v", pattern, err)
	}
	for _, in := range []string{"*", "*.", "*.com", "*.*.example.com", "a.*.example.com", "**.example.com", "*example.com", "*.127.0.0.1", "*." + strings.Repeat("abcdefg.", 31) + "info"} {
		if d, err := ParsePattern(in); err == nil {
			t.Errorf("ParsePattern(%q) = %q, want an error", in, d)
		}
	}
	for _, c := range []struct {
		pattern, name string
		covers        bool
	}{
		{"*.example.com", "www.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.www.example.com", false},
		{"*.example.com", "*.example.com", true},
		{"example.com", "example.com", true},
		{"example.com", "www.example.com", false},
	} {
		p, _ := ParsePattern(c.pattern)
		n, _ := ParsePattern(c.name)
		if p.Covers(n) != c.covers {
			t.Errorf("%s covers %s: %t", p, n, !c.covers)
		}
	}
}

func TestHandle(t *testing.T) {
	t.Run("derives every name of the host from ten opaque characters", func(t *testing.T) {
		h, err := ParseHandle("abcdefgh27")
		if err != nil {
			t.Fatal(err)
		}
		for got, want := range map[string]string{
			h.UnixUser().String():   "s-abcdefgh27",
			h.DBName().String():     "sabcdefgh27",
			h.ScratchDB().String():  "rabcdefgh27",
			h.UndoDB().String():     "uabcdefgh27",
			h.ImportUser().String(): "r-abcdefgh27",
			h.Slice():               "chom-abcdefgh27.slice",
			h.PHPUnit():             "chom-php-abcdefgh27.service",
			h.CronService():         "chom-cron-abcdefgh27.service",
			h.CronTimer():           "chom-cron-abcdefgh27.timer",
		} {
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if h.UnixUser().Handle() != h {
			t.Error("the user does not lead back to the handle")
		}
	})
	t.Run("the zero handle derives nothing", func(t *testing.T) {
		var h Handle
		for _, s := range []string{h.UnixUser().String(), h.DBName().String(), h.ScratchDB().String(), h.UndoDB().String(), h.ImportUser().String(), h.Slice(), h.PHPUnit(), h.CronService(), h.CronTimer()} {
			if s != "" {
				t.Errorf("got %q", s)
			}
		}
	})
	t.Run("refuses wrong lengths, cases and digits", func(t *testing.T) {
		for _, s := range []string{"abcdefgh2", "abcdefgh277", "ABCDEFGH27", "abcdefgh01", "abcdefgh89", "abcdefgh_2"} {
			if _, err := ParseHandle(s); err == nil {
				t.Errorf("ParseHandle(%q) passed", s)
			}
		}
	})
	t.Run("new ones parse and differ", func(t *testing.T) {
		seen := map[Handle]bool{}
		for range 1000 {
			h := NewHandle()
			if _, err := ParseHandle(h.String()); err != nil || seen[h] {
				t.Fatalf("NewHandle() = %q: %v, seen %v", h, err, seen[h])
			}
			seen[h] = true
		}
	})
}

func TestIDs(t *testing.T) {
	t.Run("new ones parse, are version 7 and differ", func(t *testing.T) {
		seen := map[TaskID]bool{}
		for range 1000 {
			id := NewTaskID()
			if _, err := ParseTaskID(id.String()); err != nil || seen[id] || id.String()[14] != '7' {
				t.Fatalf("NewTaskID() = %q: %v", id, err)
			}
			seen[id] = true
		}
	})
	t.Run("those of backups know when they were made", func(t *testing.T) {
		at := time.Date(2036, 1, 2, 3, 4, 5, 678e6, time.UTC)
		if got := NewBackupIDAt(at).Born(); !got.Equal(at) {
			t.Errorf("born %s, want %s", got, at)
		}
		for _, s := range []string{"", "6f1f5e5e-7f5e-4f55-8a44-3d9d8a6f3b11"} {
			id, _ := ParseBackupID(s) // the first is none
			if got := id.Born(); !got.IsZero() {
				t.Errorf("%q was born %s", s, got)
			}
		}
	})
	t.Run("refuses other spellings of a UUID", func(t *testing.T) {
		for _, s := range []string{
			"01890A5D-AC96-774B-BCCE-B302099A8057", "{01890a5d-ac96-774b-bcce-b302099a8057}", "01890a5dac96774bbcceb302099a8057",
			"urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057", nilUUID, "01890a5d-ac96-774b-bcce-b302099a805g", "01890a5d_ac96_774b_bcce_b302099a8057",
		} {
			if _, err := ParseSiteID(s); err == nil {
				t.Errorf("ParseSiteID(%q) passed", s)
			}
		}
	})
}

func TestText(t *testing.T) {
	t.Run("a title keeps what people write and loses outer spaces", func(t *testing.T) {
		for in, want := range map[string]string{
			"  Tom & Jerry's \"Shop\"; <b>  ": "Tom & Jerry's \"Shop\"; <b>",
			"日本語":                             "日本語",
			"family 👨‍👩‍👧":                    "family 👨‍👩‍👧",
		} {
			if v, err := ParseTitle(in); err != nil || v.String() != want {
				t.Errorf("ParseTitle(%q) = %q, %v", in, v, err)
			}
		}
		if _, err := ParseTitle("   "); err == nil {
			t.Error("spaces alone passed")
		}
		if _, err := ParseTitle(strings.Repeat("é", 201)); err == nil {
			t.Error("201 characters passed")
		}
	})
	t.Run("an email has a plain local part and a domain", func(t *testing.T) {
		if e, err := ParseEmail("Joe@EXAMPLE.com"); err != nil || e.String() != "Joe@example.com" {
			t.Errorf("got %q, %v", e, err)
		}
		for _, s := range []string{"joe", "joe@", "@example.com", "joe@localhost", "joe@1.2.3.4", "a@b@example.com", ".a@example.com", "a..b@example.com", "a.@example.com", "-a@example.com", "\"a b\"@example.com", "joe@example.com."} {
			if e, err := ParseEmail(s); err == nil {
				t.Errorf("ParseEmail(%q) = %q", s, e)
			}
		}
	})
	t.Run("a php version is two numbers", func(t *testing.T) {
		for _, s := range []string{"8", "8.", ".2", "8.2.1", "08.2", "8.02", "10.1", "0.1", "8.123"} {
			if v, err := ParsePHPVersion(s); err == nil {
				t.Errorf("ParsePHPVersion(%q) = %q", s, v)
			}
		}
	})
	t.Run("a byte size reads and writes binary units", func(t *testing.T) {
		for in, want := range map[string]string{"1": "1", "1024": "1K", "64M": "64M", "65536K": "64M", "1T": "1024G", "1500": "1500"} {
			if v, err := ParseByteSize(in); err != nil || v.String() != want {
				t.Errorf("ParseByteSize(%q) = %q, %v, want %q", in, v, err, want)
			}
		}
		for _, s := range []string{"0", "0K", "M", "1.5G", "-1", "+1", "9223372036854775807K", "9999999999999999999", "64MB", "0x10"} {
			if v, err := ParseByteSize(s); err == nil {
				t.Errorf("ParseByteSize(%q) = %v", s, v)
			}
		}
	})
}

func TestTravel(t *testing.T) {
	type order struct {
		Site    SiteID   `json:"site"`
		Domains []Domain `json:"domains"`
		Limit   ByteSize `json:"limit,omitzero"`
	}
	t.Run("JSON carries the text and checks it on the way in", func(t *testing.T) {
		d, _ := ParseDomain("a.example")
		in := order{Site: NewSiteID(), Domains: []Domain{d}}
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out order
		if err := json.Unmarshal(b, &out); err != nil || out.Site != in.Site || out.Domains[0] != d {
			t.Fatalf("%s gave %+v, %v", b, out, err)
		}
		if err := json.Unmarshal([]byte(`{"domains":["a;b.example"]}`), &out); err == nil {
			t.Error("a hostile domain came in through JSON")
		}
	})
	t.Run("a database row is checked on the way in and never stores the zero value", func(t *testing.T) {
		var h Handle
		if _, err := h.Value(); err == nil {
			t.Error("the zero handle was stored")
		}
		if err := h.Scan([]byte("abcdefgh27")); err != nil || h.String() != "abcdefgh27" {
			t.Errorf("got %q, %v", h, err)
		}
		if err := h.Scan("../../etc"); err == nil || h.String() != "abcdefgh27" {
			t.Errorf("got %q, %v", h, err)
		}
		if err := h.Scan(42); err == nil {
			t.Error("a number was read as a handle")
		}
	})
}

// FuzzNames holds the promise of the package: what passes is canonical
// (parsing it again changes nothing) and, apart from titles, made of harmless
// ASCII only.
func FuzzNames(f *testing.F) {
	for _, p := range parsers {
		f.Add(p.good)
		for _, h := range hostile {
			f.Add(p.good + h)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, p := range parsers {
			v, err := p.parse(s)
			if err != nil {
				continue
			}
			again, err := p.parse(v.String())
			if err != nil || again != v {
				t.Errorf("%s: %q parsed to %q, and again to %q, %v", p.kind, s, v, again, err)
			}
			if v.String()[0] == '-' {
				t.Errorf("%s: %q starts with a hyphen", p.kind, v)
			}
			if p.kind == "title" {
				continue
			}
			if strings.ContainsFunc(v.String(), func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._@+", r)
			}) {
				t.Errorf("%s: %q holds an unexpected character", p.kind, v)
			}
		}
	})
}
