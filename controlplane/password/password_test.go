package password_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/password"
)

var cheap = password.Parameters{MemoryKiB: 64, Passes: 1}

func TestVerify(t *testing.T) {
	ctx := t.Context()
	h := password.NewHasher(cheap)
	hash, err := h.Hash(ctx, "a sentence to keep in mind")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Errorf("got %s", hash)
	}
	if again, err := h.Hash(ctx, "a sentence to keep in mind"); err != nil || again == hash {
		t.Errorf("the same hash twice: there is no salt (%v)", err)
	}
	for name, test := range map[string]struct {
		password, hash    string
		matches, outdated bool
	}{
		"the password":                      {"a sentence to keep in mind", hash, true, false},
		"another one":                       {"a sentence to keep in mine", hash, false, false},
		"nothing":                           {"", hash, false, false},
		"a password of nobody":              {"a sentence to keep in mind", "", false, false},
		"a password typed on another board": {"cafe\u0301 au lait", mustHash(t, h, "caf\u00e9 au lait"), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			matches, outdated, err := h.Verify(ctx, test.password, test.hash)
			if err != nil || matches != test.matches || outdated != test.outdated {
				t.Errorf("got %v, %v, %v", matches, outdated, err)
			}
		})
	}
	t.Run("says that a hash of yesterday's parameters ought to be made anew", func(t *testing.T) {
		matches, outdated, err := password.NewHasher(password.Parameters{MemoryKiB: 64, Passes: 2}).Verify(ctx, "a sentence to keep in mind", hash)
		if err != nil || !matches || !outdated {
			t.Errorf("got %v, %v, %v", matches, outdated, err)
		}
	})
	for name, broken := range map[string]string{
		"text":            "secret",
		"another kind":    strings.Replace(hash, "argon2id", "argon2i", 1),
		"another version": strings.Replace(hash, "v=19", "v=16", 1),
		"a terabyte":      strings.Replace(hash, "m=64", "m=1073741824", 1),
		"years of work":   strings.Replace(hash, "t=1", "t=4000000000", 1),
		"no work":         strings.Replace(hash, "t=1", "t=0", 1),
		"a short salt":    "$argon2id$v=19$m=64,t=1,p=1$AAAA$" + hash[strings.LastIndexByte(hash, '$')+1:],
		"no sum":          hash[:strings.LastIndexByte(hash, '$')+1],
		"a part too many": hash + "$",
		"two lanes":       strings.Replace(hash, "p=1", "p=2", 1),
	} {
		t.Run("refuses a stored hash that is "+name, func(t *testing.T) {
			if matches, _, err := h.Verify(ctx, "a sentence to keep in mind", broken); err == nil || matches {
				t.Errorf("got %v, %v", matches, err)
			}
		})
	}
}

func mustHash(t *testing.T, h *password.Hasher, p string) string {
	t.Helper()
	hash, err := h.Hash(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// TestCrowd has far more people sign in at once than there is room for.
func TestCrowd(t *testing.T) {
	h := password.NewHasher(password.Parameters{MemoryKiB: 8 << 10, Passes: 1})
	var served, turned, atOnce atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 500 {
		wg.Go(func() {
			came := time.Now()
			_, _, err := h.Verify(t.Context(), "a sentence to keep in mind", "")
			if err != nil && time.Since(came) < time.Second {
				atOnce.Add(1)
			}
			f, _ := fault.Of(err)
			switch {
			case err == nil:
				served.Add(1)
			case f != nil && f.Kind() == fault.KindUnavailable && f.RetryAfter() > 0:
				turned.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if served.Load() == 0 || turned.Load() < 300 {
		t.Errorf("%d were served and %d turned away", served.Load(), turned.Load())
	}
	if atOnce.Load() < 300 {
		t.Errorf("%d were turned away at once, the others only after they had waited", atOnce.Load())
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the last one waited %s", took)
	}
	if _, err := h.Hash(t.Context(), "a sentence to keep in mind"); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func TestCheck(t *testing.T) {
	const email = "anna.berg@example.com"
	for name, test := range map[string]struct {
		password string
		refused  string
	}{
		"a sentence":                {"a sentence to keep in mind", ""},
		"ten characters":            {"gruen-7-ei", ""},
		"ten characters of Greek":   {"καλημέρα σ", ""},
		"128 characters":            {strings.Repeat("ab", 64), ""},
		"nine characters":           {"gruen-7-e", "at least 10"},
		"nothing":                   {"", "at least 10"},
		"nine characters, 18 bytes": {"καλημέρασ", "at least 10"},
		"129 characters":            {strings.Repeat("ab", 64) + "a", "at most 128"},
		"a common one":              {"1q2w3e4r5t", "commonest"},
		"a common one in capitals":  {"QwertyUiop", "commonest"},
		"the address":               {"Anna.Berg@example.com", "e-mail"},
		"0 over and over":           {"00000000000000", "over and over"},
		"broken UTF-8":              {"0123456789\xff", "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			err := password.Check("password", test.password, email)
			var f *fault.Fault
			switch {
			case test.refused == "" && err != nil:
				t.Error(err)
			case test.refused != "" && (!errors.As(err, &f) || f.Field() != "password" || !strings.Contains(f.Rule(), test.refused)):
				t.Errorf("got %v", err)
			}
		})
	}
}

// BenchmarkHash is what one login costs: 50 to 100 ms.
func BenchmarkHash(b *testing.B) {
	h := password.NewHasher(password.Today)
	for b.Loop() {
		if _, err := h.Hash(b.Context(), "a sentence to keep in mind"); err != nil {
			b.Fatal(err)
		}
	}
}
