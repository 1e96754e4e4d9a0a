package ledger

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// script writes entries from lines like "1 accepted t1/1 fence=5 site=s": the
// life, what happened, the attempt and the rest. Lines are numbered unless
// they say n=.
func script(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	n := uint64(0)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		n++
		e := Entry{N: n, Agent: "a", Life: int(words[0][0] - '0'), What: words[1], Site: "s"}
		for _, w := range words[2:] {
			k, v, _ := strings.Cut(w, "=")
			number := uint64(0)
			for _, c := range v {
				number = number*10 + uint64(c-'0')
			}
			switch k {
			case "fence":
				e.Fence = number
			case "steps":
				e.Steps = int(number)
			case "n":
				e.N = number
			case "site":
				e.Site = v
			case "agent":
				e.Agent = v
			case "name":
				e.Name = v
			case "outcome":
				e.Outcome = v
			default:
				task, attempt, _ := strings.Cut(w, "/")
				e.Task, e.Attempt = task, uint32(attempt[0]-'0')
			}
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(text, '\n'))
	}
	return out.String()
}

const good = `
	1 born
	1 accepted t1/1 fence=1 steps=2
	1 started t1/1
	1 effect t1/1 name=x
	1 step t1/1 name=x outcome=done
	1 accepted t2/1 fence=2 steps=1
	1 effect t1/1 name=y
	1 killed
	2 born
	2 resumed t1/1
	2 step t1/1 name=y outcome=already_done
	2 result t1/1 outcome=succeeded
	2 resumed t2/1
	2 effect t2/1 name=x
	2 step t2/1 name=x outcome=done
	2 result t2/1 outcome=succeeded
	2 accepted t3/1 fence=7 site=other steps=1
	2 started t3/1 site=other
	2 result t3/1 site=other outcome=failed
`

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		claim     string
		text      string
		succeeded []string
		want      string // rule that must be found broken; "" for none
	}{
		{"accepts a ledger that keeps all rules", good, []string{"t1", "t2"}, ""},
		{"accepts an acceptance that was killed between journal and ledger", `
			1 born
			1 killed
			2 born
			2 resumed t1/1 fence=1
			2 effect t1/1 name=x
			2 result t1/1 outcome=succeeded`, []string{"t1"}, ""},
		{"accepts an end that was killed between journal and ledger", `
			1 born
			1 accepted t1/1 fence=1 steps=1
			1 started t1/1
			1 effect t1/1 name=x
			1 killed
			2 born
			2 accepted t2/1 fence=2 steps=1
			2 started t2/1
			2 effect t2/1 name=x
			2 result t2/1 outcome=succeeded`, []string{"t1", "t2"}, ""},
		{"finds a missing line", strings.Replace(good, "1 step t1/1 name=x outcome=done", "", 1) + "2 born n=90", nil, "numbers"},
		{"finds a repeated line", `
			1 born n=1
			1 accepted t1/1 fence=1 n=1`, nil, "numbers"},
		{"finds a dead process that acts", `
			1 born
			1 accepted t1/1 fence=1
			1 started t1/1
			1 killed
			1 effect t1/1 name=x`, nil, "life"},
		{"finds two processes at once", `
			1 born
			2 born`, nil, "life"},
		{"finds a former process that acts beside its successor", `
			1 born
			1 accepted t1/1 fence=1
			1 started t1/1
			1 killed
			2 born
			1 effect t1/1 name=x`, nil, "life"},
		{"finds a fence that does not grow", `
			1 born
			1 accepted t1/1 fence=5
			1 started t1/1
			1 result t1/1 outcome=failed
			1 accepted t2/1 fence=5`, nil, "fence"},
		{"finds a fence that falls after a restart", `
			1 born
			1 accepted t1/1 fence=5
			1 started t1/1
			1 result t1/1 outcome=failed
			1 killed
			2 born
			2 accepted t2/1 fence=4`, nil, "fence"},
		{"finds an attempt that is accepted twice", `
			1 born
			1 accepted t1/1 fence=1
			1 accepted t1/1 fence=2`, nil, "once"},
		{"finds an attempt that is started twice", `
			1 born
			1 accepted t1/1 fence=1
			1 started t1/1
			1 killed
			2 born
			2 started t1/1`, nil, "once"},
		{"finds an attempt that runs without having been accepted", `
			1 born
			1 started t1/1`, nil, "once"},
		{"finds one that is resumed though nothing came before", `
			1 born
			1 resumed t1/1`, nil, "once"},
		{"finds one that is resumed in its own life", `
			1 born
			1 killed
			2 born
			2 accepted t1/1 fence=1
			2 started t1/1
			2 resumed t1/1`, nil, "once"},
		{"finds an effect of an attempt that does not run", `
			1 born
			1 accepted t1/1 fence=1
			1 effect t1/1 name=x`, nil, "once"},
		{"finds an effect that happens twice", strings.Replace(good, "2 step t1/1 name=y outcome=already_done", "2 effect t1/1 name=y", 1), nil, "effect"},
		{"finds an effect that a second attempt repeats", `
			1 born
			1 accepted t1/1 fence=1 steps=2
			1 started t1/1
			1 effect t1/1 name=x
			1 result t1/1 outcome=canceled
			1 accepted t1/2 fence=2 steps=2
			1 started t1/2
			1 effect t1/2 name=x`, nil, "effect"},
		{"finds a success without its effects", `
			1 born
			1 accepted t1/1 fence=1 steps=2
			1 started t1/1
			1 effect t1/1 name=x
			1 result t1/1 outcome=succeeded`, nil, "effect"},
		{"finds two attempts of one site at once", `
			1 born
			1 accepted t1/1 fence=1
			1 accepted t2/1 fence=2
			1 started t1/1
			1 started t2/1`, nil, "order"},
		{"finds attempts of one site in the wrong order", `
			1 born
			1 accepted t1/1 fence=1
			1 accepted t2/1 fence=2
			1 started t2/1`, nil, "order"},
		{"finds an unfinished attempt that a later one overtakes", strings.NewReplacer(
			"2 resumed t1/1", "2 resumed t2/1", "2 resumed t2/1", "2 resumed t1/1").Replace(`
			1 born
			1 accepted t1/1 fence=1 steps=1
			1 accepted t2/1 fence=2 steps=1
			1 started t1/1
			1 killed
			2 born
			2 resumed t1/1
			2 effect t2/1 name=x
			2 result t2/1 outcome=succeeded
			2 resumed t2/1`), nil, "end"},
		{"finds what happens after the end", `
			1 born
			1 accepted t1/1 fence=1
			1 started t1/1
			1 result t1/1 outcome=succeeded
			1 result t1/1 outcome=failed`, nil, "end"},
		{"finds a task that two agents do", `
			1 born
			1 born agent=b
			1 accepted t1/1 fence=1
			1 accepted t1/1 fence=1 agent=b`, nil, "once"},
		{"finds a success that nobody did", good, []string{"t1", "t2", "t9"}, "lost"},
		{"finds a success that was half done", `
			1 born
			1 accepted t1/1 fence=1 steps=2
			1 started t1/1
			1 effect t1/1 name=x
			1 killed
			2 born`, []string{"t1"}, "lost"},
		{"finds a success that ended otherwise", good, []string{"t1", "t2", "t3"}, "lost"},
		{"finds a success that was not heard of", good, []string{"t1"}, "unheard"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			_, findings, err := Check(strings.NewReader(script(t, c.text)), c.succeeded)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(findings) > 0 {
				t.Fatalf("found %v", findings)
			}
			for _, f := range findings {
				if f.Rule == c.want {
					return
				}
			}
			if c.want != "" {
				t.Fatalf("rule %q was broken, found was %v", c.want, findings)
			}
		})
	}
	t.Run("counts", func(t *testing.T) {
		sum, _, err := Check(strings.NewReader(script(t, good)), nil)
		want := Summary{Lines: 19, Agents: 1, Kills: 1, Attempts: 3, Resumed: 2, Effects: 3, Succeeded: 2}
		if err != nil || sum != want {
			t.Errorf("got %+v, want %+v, %v", sum, want, err)
		}
	})
	t.Run("finds a torn line", func(t *testing.T) {
		text := script(t, good)
		_, findings, err := Check(strings.NewReader(text[:len(text)-20]), nil)
		if err != nil || len(findings) == 0 {
			t.Errorf("found %v, %v", findings, err)
		}
	})
}

func TestWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w.Append(Entry{Agent: "a", Life: 1, What: Born})
	w.Append(Entry{Agent: "a", Life: 1, What: Killed})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if sum, findings, err := Check(f, nil); err != nil || len(findings) > 0 || sum.Lines != 2 {
		t.Errorf("%+v, %v, %v", sum, findings, err)
	}
	if _, err := Create(path); err == nil {
		t.Error("a ledger was overwritten")
	}
}
