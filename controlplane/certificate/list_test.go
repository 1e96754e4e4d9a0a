package certificate

import (
	"fmt"
	"strings"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		other := w.addSite(t, w.ours, "intranet")
		w.reportOf(t, w.theirs, w.theirSite, now, good("theirs.example.com", now.Add(oneDay)))
		w.report(t, now, good("c.example.com", now.Add(60*oneDay)), good("b.example.com", now.Add(60*oneDay)), good("a.example.com", now.Add(5*oneDay)), none("new.example.com", ""))
		w.reportOf(t, w.ours, other, now, good("d.example.com", now.Add(7*oneDay)), good(strings.Repeat("x", 63)+"."+strings.Repeat("abcdefg.", 22)+"example.com", now.Add(90*oneDay)))
		w.settled(t, now)
		list := func(size int32, filter Filter) string {
			t.Helper()
			var words []string
			token, pages := "", 0
			for {
				some, next, err := w.List(t.Context(), w.ours, size, token, filter)
				must(t, err)
				for _, c := range some {
					words = append(words, c.SiteName+"/"+c.Name.String()[:1])
				}
				if pages++; next == "" || pages > 10 {
					return strings.Join(words, " ")
				}
				if len(next) > 400 {
					t.Errorf("a token of %d characters", len(next))
				}
				token = next
			}
		}
		const all = "shop/n shop/a intranet/d shop/b shop/c intranet/x"
		for _, size := range []int32{0, 1, 2, 3, 6, 500} {
			if got := list(size, Filter{}); got != all {
				t.Errorf("by %d: %s", size, got)
			}
		}
		for name, test := range map[string]struct {
			filter Filter
			want   string
		}{
			"those with an alarm":           {Filter{Alarms: true}, "shop/a intranet/d"},
			"those of a site":               {Filter{Only: []string{other.String()}}, "intranet/d intranet/x"},
			"those of no site":              {Filter{Only: []string{}}, ""},
			"those of another organization": {Filter{Only: []string{w.theirSite.String()}}, ""},
		} {
			t.Run(name, func(t *testing.T) {
				if got := list(1, test.filter); got != test.want {
					t.Errorf("got %s", got)
				}
			})
		}
		t.Run("refuses tokens of other lists and sizes that are none", func(t *testing.T) {
			_, next, err := w.List(t.Context(), w.ours, 1, "", Filter{})
			must(t, err)
			for _, bad := range []struct {
				size   int32
				token  string
				filter Filter
			}{{1, next, Filter{Alarms: true}}, {1, next, Filter{Only: []string{other.String()}}}, {1, "x", Filter{}}, {1, next[:len(next)-2] + "=", Filter{}}, {-1, "", Filter{}}, {501, "", Filter{}}} {
				if _, _, err := w.List(t.Context(), w.ours, bad.size, bad.token, bad.filter); fault.KindOf(err) != fault.KindInvalid {
					t.Errorf("%+v: %v", bad, err)
				}
			}
			if _, _, err := w.List(t.Context(), w.theirs, 1, next, Filter{}); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("another organization's token: %v", err)
			}
		})
	})
}

// FuzzPosition claims that what somebody makes up as a position harms nobody.
func FuzzPosition(f *testing.F) {
	f.Add([]byte("short"))
	f.Add([]byte(fmt.Sprintf("%24sa\x00\xff", "")))
	f.Fuzz(func(t *testing.T, position []byte) {
		if _, _, name := read(position); strings.ContainsAny(name, "\x00") || strings.ToValidUTF8(name, "") != name {
			t.Errorf("the database does not take %q", name)
		}
	})
}
