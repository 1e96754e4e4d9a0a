package page

import (
	"errors"
	"strings"
	"testing"

	"chom.dev/controlplane/fault"
)

const id = "0190b1c2-0000-7000-8000-000000000001"

func TestToken(t *testing.T) {
	query := Query{"sites", "organization a", "all"}
	t.Run("continues where the page ended", func(t *testing.T) {
		if got, err := query.After(query.Token(id)); err != nil || got != id {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("is empty for the first page", func(t *testing.T) {
		if got, err := query.After(""); err != nil || got != "" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("continues after a position that is no id", func(t *testing.T) {
		if got, err := query.AfterPosition(query.TokenAt([]byte{0, 1, 2})); err != nil || string(got) != "\x00\x01\x02" {
			t.Errorf("got %q, %v", got, err)
		}
		if got, err := query.AfterPosition(""); err != nil || got != nil {
			t.Errorf("the first page: %q, %v", got, err)
		}
		for _, bad := range []string{Query{"sites", "organization b", "all"}.TokenAt([]byte("x")), query.TokenAt(nil), "AA", "' OR 1=1 --"} {
			var f *fault.Fault
			if got, err := query.AfterPosition(bad); !errors.As(err, &f) || f.Field() != "page_token" {
				t.Errorf("%s: got %q, %v", bad, got, err)
			}
		}
		if token := query.TokenAt(make([]byte, 290)); len(token) > 400 {
			t.Errorf("a token of %d characters", len(token))
		}
	})
	good := query.Token(id)
	for name, bad := range map[string]string{
		"of another organization": Query{"sites", "organization b", "all"}.Token(id),
		"of another list":         Query{"tasks", "organization a", "all"}.Token(id),
		"with another filter":     Query{"sites", "organization a", "trashed"}.Token(id),
		"cut short":               good[:len(good)-1],
		"with more behind":        good + "AA",
		"of SQL":                  "' OR 1=1 --",
		"of NUL":                  "\x00",
		"too long":                strings.Repeat("A", 10_000),
	} {
		t.Run("is refused "+name, func(t *testing.T) {
			var f *fault.Fault
			if got, err := query.After(bad); !errors.As(err, &f) || f.Field() != "page_token" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for wanted, want := range map[int32]int{0: DefaultSize, 1: 1, 500: 500} {
		if got, err := Size(wanted); err != nil || got != want {
			t.Errorf("Size(%d) = %d, %v", wanted, got, err)
		}
	}
	for _, wanted := range []int32{-1, 501, 1<<31 - 1, -1 << 31} {
		if got, err := Size(wanted); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("Size(%d) = %d, %v", wanted, got, err)
		}
	}
}

func TestWords(t *testing.T) {
	if got := Words([]string(nil)); got != "" {
		t.Errorf("none became %q", got)
	}
	if a, b := Words([]string{"b", "a"}), Words([]string{"a", "b"}); a != " a b " || a != b {
		t.Errorf("got %q and %q", a, b)
	}
}
