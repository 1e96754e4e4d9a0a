package sitelog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	access = sitev1.LogSource_LOG_SOURCE_ACCESS
	faults = sitev1.LogSource_LOG_SOURCE_ERROR
	php    = sitev1.LogSource_LOG_SOURCE_PHP
)

// world is a site's logs, and somebody who looks.
type world struct {
	t    *testing.T
	dir  string
	logs *Logs
	site contract.SiteID
	say  func(time.Time, string) // what PHP says; nil while nobody listens

	told    []string
	leftOut uint32
	calls   int
	wanted  func() (bool, error)
}

type registry []task.Site

func (r registry) Sites() ([]task.Site, error) { return r, nil }

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), site: contract.NewSiteID(), wanted: func() (bool, error) { return true, nil }}
	w.logs = New(Config{
		Registry: registry{{ID: contract.NewSiteID(), Handle: contract.NewHandle()}, {ID: w.site, Handle: contract.NewHandle()}},
		Access:   func(contract.Handle) string { return filepath.Join(w.dir, "access.log") },
		Error:    func(contract.Handle) string { return filepath.Join(w.dir, "error.log") },
		Log:      slog.New(slog.DiscardHandler),
	})
	w.logs.journal = func(ctx context.Context, _ contract.Handle, _ int, take func(time.Time, string)) error {
		w.say = take
		<-ctx.Done()
		w.say = nil
		return ctx.Err()
	}
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		w.t.Fatal(err)
	}
}

// look shows logs until the returned function ends it.
func (w *world) look(lines uint32, sources ...sitev1.LogSource) (end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- w.logs.Show(ctx, &linkv1.ShowLogs{SiteId: w.site.String(), Sources: sources, Lines: lines}, func(_ context.Context, lines []*sitev1.LogLine) (bool, error) {
			w.calls++
			if len(lines) > maxReport {
				w.t.Errorf("%d lines in a report", len(lines))
			}
			for _, line := range lines {
				w.told = append(w.told, line.GetText())
				w.leftOut += line.GetLeftOut()
			}
			return w.wanted()
		})
	}()
	return func() error { cancel(); return <-ended }
}

// hears waits for so long, and checks what was told since the last time.
func (w *world) hears(within time.Duration, want ...string) {
	w.t.Helper()
	time.Sleep(within)
	synctest.Wait()
	if got := fmt.Sprintf("%q", w.told); got != fmt.Sprintf("%q", want) {
		w.t.Fatalf("told %s, want %q", got, want)
	}
	w.told = nil
}

func TestShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.write("access.log", "old 1\nold 2\nold 3\n")
		end := w.look(2, access, faults, php)
		w.hears(0, "old 2", "old 3")
		w.write("access.log", "new 1\n")
		w.hears(lookEvery, "new 1")

		// A log that was not there yet, and one that is rotated meanwhile.
		w.write("error.log", "fault 1\nfault 2\n")
		w.hears(lookEvery, "fault 1", "fault 2")
		if err := os.Rename(filepath.Join(w.dir, "access.log"), filepath.Join(w.dir, "access.log.1")); err != nil {
			t.Fatal(err)
		}
		w.write("access.log.1", "new 2\n")
		w.write("access.log", "new 3\n")
		w.hears(lookEvery, "new 2", "new 3")

		w.say(time.Now(), "PHP Warning: \x1b[31mred\u202e")
		w.hears(lookEvery, "PHP Warning:  [31mred")
		w.write("access.log", strings.Repeat("ü", 5000)+"\xff\n")
		w.hears(lookEvery, strings.Repeat("ü", maxText/2))

		// It asks whether anybody still looks, every two seconds.
		calls := w.calls
		w.hears(10 * askEvery)
		if n := w.calls - calls; n < 9 || n > 11 {
			t.Errorf("asked %d times in %s", n, 10*askEvery)
		}
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if w.say != nil {
			t.Error("the journal is still listened to")
		}
	})
}

func TestShowEnds(t *testing.T) {
	for name, answer := range map[string]func() (bool, error){
		"when nobody wants it any more": func() (bool, error) { return false, nil },
		"when a report is refused":      func() (bool, error) { return true, errors.New("no") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.wanted = answer
				end := w.look(10, access, php)
				time.Sleep(time.Minute)
				synctest.Wait()
				if w.calls != 1 || w.say != nil {
					t.Errorf("%d reports, journal listened to: %t", w.calls, w.say != nil)
				}
				if err := end(); errors.Is(err, context.Canceled) {
					t.Error("it had to be told to end")
				}
			})
		})
	}
	t.Run("at once for a site that is not here", func(t *testing.T) {
		w := newWorld(t)
		err := w.logs.Show(t.Context(), &linkv1.ShowLogs{SiteId: contract.NewSiteID().String(), Sources: []sitev1.LogSource{access}},
			func(context.Context, []*sitev1.LogLine) (bool, error) {
				t.Error("something was reported")
				return false, nil
			})
		if err == nil {
			t.Error("no error")
		}
	})
}

func TestShowIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.write("access.log", "first\n")
		end := w.look(1, access)
		w.hears(0, "first")
		line := strings.Repeat("x", 968) + "\n" // 1000 bytes with what is around it
		const flood, seconds = 2000, 10
		for range seconds * 4 {
			w.write("access.log", strings.Repeat(line, flood/4))
			time.Sleep(lookEvery)
		}
		synctest.Wait()
		most := (bytesBurst + (seconds+1)*bytesPerSecond) / 1000
		if n := len(w.told); n > most || n < most/2 {
			t.Errorf("%d lines of %d were told, at most %d are", n, flood*seconds, most)
		}
		told := len(w.told)
		w.told = nil
		time.Sleep(10 * time.Second)
		w.write("access.log", "calm again\n")
		time.Sleep(lookEvery)
		synctest.Wait()
		if n := len(w.told); n != 1 || w.told[0] != "calm again" {
			t.Errorf("after the flood: %d lines", n)
		}
		if got, want := int(w.leftOut), flood*seconds-(told-0); got != want {
			t.Errorf("%d lines were left out, and said to be %d", want, got)
		}
		_ = end()
	})
}

func TestTimes(t *testing.T) {
	at := time.Date(2026, 11, 27, 2, 1, 13, 0, time.FixedZone("", 3600))
	for line, want := range map[string]time.Time{
		`192.0.2.1 - - [27/Nov/2026:02:01:13 +0100] "GET / HTTP/1.1" 200 5 "" "" a.example.com 0.1`:                              at,
		`192.0.2.1 - x [01/Jan/2000:00:00:00 +0000] [27/Nov/2026:02:01:13 +0100] "GET /[1] \"] \" HTTP/1.1" 200 5 "" "" a.b 0.1`: at,
		"": {}, "nothing": {}, `] "`: {},
	} {
		if got := accessTime([]byte(line)); !got.Equal(want) {
			t.Errorf("%s: %s", line, got)
		}
	}
	if got := errorTime([]byte("2026/11/27 02:01:13 [error] 1#1: *1 open()")); !got.Equal(time.Date(2026, 11, 27, 2, 1, 13, 0, time.Local)) {
		t.Error(got)
	}
	if got := errorTime([]byte("PHP says")); !got.IsZero() {
		t.Error(got)
	}
}

func TestEntries(t *testing.T) {
	var got []string
	e := &entries{take: func(at time.Time, text string) { got = append(got, fmt.Sprint(at.UnixMicro(), " ", text)) }}
	text := `{"__REALTIME_TIMESTAMP":"1795744873000001","MESSAGE":"NOTICE: a"}
{"__REALTIME_TIMESTAMP":"1795744873000002","MESSAGE":"Fatal error:\n#0 b.php(1)\n\n  thrown"}
{"__REALTIME_TIMESTAMP":"1795744873000003","MESSAGE":[104,105,255]}
no entry
{"MESSAGE":"` + strings.Repeat("x", maxEntry) + `"}
{"__REALTIME_TIMESTAMP":"1795744873000004","MESSAGE":"z"}
`
	for part := range 1 + len(text)/7 {
		if _, err := e.Write([]byte(text[part*7 : min(len(text), part*7+7)])); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"1795744873000001 NOTICE: a", "1795744873000002 Fatal error:", "1795744873000002 #0 b.php(1)", "1795744873000002 thrown",
		"1795744873000003 hi\xff", "1795744873000004 z",
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q", got)
	}
}
