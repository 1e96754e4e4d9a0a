package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

func line(version int, key []byte, more string) string {
	return fmt.Sprintf("%d 2026-11-25T12:00:00Z %s%s\n", version, base64.StdEncoding.EncodeToString(key), more)
}

func random() []byte {
	key := make([]byte, keySize)
	rand.Read(key)
	return key
}

func ramp(step int) []byte {
	key := make([]byte, keySize)
	for i := range key {
		key[i] = byte(i * step)
	}
	return key
}

// TestParseKeys is a part of case B17: what nobody drew at random is no key, and no error repeats it.
func TestParseKeys(t *testing.T) {
	one, two := random(), random()
	common := sha256.Sum256([]byte("changeme"))
	for name, test := range map[string]struct {
		text string
		want string // empty for fine
	}{
		"one":                       {line(1, one, ""), ""},
		"several":                   {preface + line(3, one, "") + "\n" + line(7, two, " pending"), ""},
		"nothing":                   {"", "no key in it"},
		"only the preface":          {preface, "no key in it"},
		"only a pending one":        {line(1, one, " pending"), "no key in it"},
		"a short one":               {line(1, one[:31], ""), "must be 32 bytes"},
		"a long one":                {line(1, append(random(), 0), ""), "must be 32 bytes"},
		"zeros":                     {line(1, make([]byte, keySize), ""), "too few different bytes"},
		"one byte":                  {line(1, []byte(strings.Repeat("\xa7", keySize)), ""), "too few different bytes"},
		"two halves alike":          {line(1, append(random()[:16], one[:16]...), ""), ""},
		"a repeated part":           {line(1, append(append([]byte{}, one[:16]...), one[:16]...), ""), "too few different bytes"},
		"the first numbers":         {line(1, ramp(1), ""), "follow a rule"},
		"every seventh number":      {line(1, ramp(7), ""), "follow a rule"},
		"a text":                    {line(1, []byte("correct-HORSE_battery+Staple.42!"), ""), "it is a text"},
		"a hash of a common word":   {line(1, common[:], ""), "common word"},
		"the same twice":            {line(1, one, "") + line(2, one, ""), "the same key as version 1"},
		"a version twice":           {line(1, one, "") + line(1, two, ""), "versions must grow"},
		"versions that fall":        {line(2, one, "") + line(1, two, ""), "versions must grow"},
		"a pending one that is old": {line(1, random(), "") + line(2, one, " pending") + line(3, two, ""), "only the last key"},
		"version 0":                 {line(0, one, ""), "above 0"},
		"no time":                   {"1 today " + base64.StdEncoding.EncodeToString(one), "RFC 3339"},
		"another word":              {line(1, one, " retired"), "must be a version"},
		"no base64":                 {"1 2026-11-25T12:00:00Z CANARYCANARYCANARYCANARYCANARYCANARYCANARY!=", "32 bytes in base64"},
		"a bare key":                {base64.StdEncoding.EncodeToString(one), "must be a version"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := parseKeys([]byte(test.text))
			if test.want == "" && (err != nil || len(keys) == 0) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %d keys, %v", len(keys), err)
			}
			if err != nil && (strings.Contains(err.Error(), "CANARY") || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString(one)[:8])) {
				t.Errorf("the error repeats it: %v", err)
			}
		})
	}
	t.Run("what was written is read", func(t *testing.T) {
		keys := []Key{newKey(1, time.Now()), newKey(2, time.Now())}
		keys[1].Pending = true
		again, err := parseKeys(formatKeys(keys))
		if err != nil || len(again) != 2 || again[0] != keys[0] || again[1] != keys[1] {
			t.Errorf("got %v, %v", again, err)
		}
	})
	t.Run("hardly ever refuses a random key", func(t *testing.T) {
		for range 200_000 {
			if reason := weakness([keySize]byte(random())); reason != "" {
				t.Fatal(reason)
			}
		}
	})
}
