package outbox

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	broken := errors.New("broken")
	backoff := Backoff{First: time.Minute, Most: time.Hour}
	for name, test := range map[string]struct {
		err      error
		tries    int
		deadline time.Duration
		want     decision
		doubt    bool // about the clock
	}{
		"what arrived is sent":                        {nil, 1, time.Hour, decision{state: Sent, counted: true}, false},
		"a failure is tried again":                    {broken, 1, time.Hour, decision{Waiting, now.Add(time.Minute), true, "broken"}, false},
		"each time later":                             {broken, 4, time.Hour, decision{Waiting, now.Add(8 * time.Minute), true, "broken"}, false},
		"but never later than the most":               {broken, 90, 48 * time.Hour, decision{Waiting, now.Add(time.Hour), true, "broken"}, false},
		"what could only be tried too late is dead":   {broken, 1, 59 * time.Second, decision{state: Dead, counted: true, text: "broken"}, false},
		"by a clock that was set nothing is too late": {broken, 1, 59 * time.Second, decision{Waiting, now.Add(time.Minute), true, "broken"}, true},
		"what was refused for good is dead":           {fmt.Errorf("send: %w", Permanent(broken)), 1, time.Hour, decision{state: Dead, counted: true, text: "send: broken"}, false},
		"what is put off waits, and that is no try":   {Later(broken, time.Second), 1, time.Hour, decision{Waiting, now.Add(time.Second), false, "broken"}, false},
		"what is put off past its time waits as well": {Later(broken, 2*time.Hour), 1, time.Hour, decision{Waiting, now.Add(2 * time.Hour), false, "broken"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(Item{Tries: test.tries, Deadline: now.Add(test.deadline)}, test.err, backoff, now, !test.doubt, 0); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	t.Run("jitter takes away a third at most", func(t *testing.T) {
		if got := backoff.after(3, 1); got != 4*time.Minute*2/3 {
			t.Errorf("got %s", got)
		}
	})
}

func TestPlain(t *testing.T) {
	for give, want := range map[string]string{
		"550 no\r\nsuch\x00 user":        "550 no such user",
		"a\u202etxt.exe \xff":            "atxt.exe",
		strings.Repeat("é", 200) + "end": strings.Repeat("é", 150),
	} {
		if got := plain(give); got != want {
			t.Errorf("%q became %q", give, got)
		}
	}
}
