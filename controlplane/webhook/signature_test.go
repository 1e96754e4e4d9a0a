package webhook

import (
	"strings"
	"testing"
	"time"
)

func TestVerify(t *testing.T) {
	const secret = "chomhook_secret"
	now := time.Unix(1764078180, 0)
	body := []byte(`{"id":"1"}`)
	// Computed by: printf '1764078180.{"id":"1"}' | openssl dgst -sha256 -hmac chomhook_secret
	const known = "t=1764078180,v1=eaebb1b1eb4bf6261d36cad86939fa31e50f78a3fd7140df9767c4173fe22704"
	header := sign([]string{secret}, body, now)
	if header != known {
		t.Errorf("the header is %s", header)
	}
	both := sign([]string{"new", secret}, body, now)
	for name, test := range map[string]struct {
		secret, header string
		body           string
		now            time.Time
		fine           bool
	}{
		"what was sent":                    {secret, header, string(body), now, true},
		"on a slow way":                    {secret, header, string(body), now.Add(Tolerance), true},
		"by a clock that is ahead":         {secret, header, string(body), now.Add(-Tolerance), true},
		"signed with two secrets":          {secret, both, string(body), now, true},
		"signed with two, the new one":     {"new", both, string(body), now, true},
		"with spaces":                      {secret, strings.ReplaceAll(header, ",", ", "), string(body), now, true},
		"recorded and sent again":          {secret, header, string(body), now.Add(Tolerance + time.Second), false},
		"another body":                     {secret, header, `{"id":"2"}`, now, false},
		"another secret":                   {"chomhook_other", header, string(body), now, false},
		"another time":                     {secret, strings.Replace(header, "t=1764078180", "t=1764078181", 1), string(body), now, false},
		"no header":                        {secret, "", string(body), now, false},
		"no time":                          {secret, strings.TrimPrefix(header, "t=1764078180,"), string(body), now, false},
		"no signature":                     {secret, "t=1764078180", string(body), now, false},
		"an empty signature":               {secret, "t=1764078180,v1=", string(body), now, false},
		"another scheme":                   {secret, strings.Replace(header, "v1=", "v0=", 1), string(body), now, false},
		"garbage":                          {secret, "t=1764078180,v1=zz,=,,v1", string(body), now, false},
		"a signature that ends too early":  {secret, header[:len(header)-2], string(body), now, false},
		"a time beyond all that there are": {secret, strings.Replace(header, "1764078180", "9223372036854775807", 1), string(body), now, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Verify(test.secret, test.header, []byte(test.body), test.now); (err == nil) != test.fine {
				t.Errorf("got %v", err)
			}
		})
	}
}
