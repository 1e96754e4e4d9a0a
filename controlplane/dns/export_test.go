package dns

import (
	"net/http"
	"time"
)

// Signed says whether a call of Route 53 is signed with a key.
func Signed(r *http.Request, body, accessKey, secret string) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > time.Minute {
		return false
	}
	again := r.Clone(r.Context())
	again.URL.Host = r.Host
	(&amazon{service: "route53", region: "us-east-1", accessKey: accessKey, secret: secret}).sign(again, []byte(body), at)
	return again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

// SignatureOf signs a GET of AWS's examples (aws-sig-v4-test-suite).
func SignatureOf(r *http.Request) string {
	example := &amazon{service: "service", region: "us-east-1", accessKey: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	example.sign(r, nil, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	return r.Header.Get("Authorization")
}
