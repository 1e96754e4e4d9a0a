package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"google.golang.org/protobuf/types/known/emptypb"

	"chom.dev/controlplane/db/dbtest"
)

// running is a control plane in this process.
type running struct {
	url, metrics string
	console      *bytes.Buffer
	stop         func() int
}

var servingLine = regexp.MustCompile(`msg=serving .* url=(\S+) agent_address=(\S+)`)

func start(t *testing.T, args ...string) *running {
	t.Helper()
	// The port of /metrics is in no log line: choose one.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{metrics: free.Addr().String(), console: &bytes.Buffer{}}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	log, logged := io.Pipe()
	ended := make(chan int, 1)
	args = append([]string{"serve", "--people-listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0", "--metrics-listen", r.metrics}, args...)
	go func() {
		code := run(ctx, args, r.console, logged)
		_ = logged.Close() // ends the reader below
		ended <- code
	}()
	r.stop = func() int {
		cancel()
		select {
		case code := <-ended:
			return code
		case <-time.After(10 * time.Second):
			t.Fatal("it does not stop")
			return -1
		}
	}
	serving := make(chan string, 1)
	var text strings.Builder
	go func() {
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			text.WriteString(lines.Text() + "\n")
			if found := servingLine.FindStringSubmatch(lines.Text()); found != nil {
				serving <- found[1]
			}
		}
	}()
	select {
	case r.url = <-serving:
	case code := <-ended:
		t.Fatalf("it ended with %d: %s", code, text.String())
	case <-time.After(20 * time.Second):
		t.Fatal("it does not serve")
	}
	return r
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestServe(t *testing.T) {
	for engine, url := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "chom.db") },
		"postgres": func(t *testing.T) string { return dbtest.PostgresURL(t) },
	} {
		t.Run(engine, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			args := []string{"--data-dir", dir, "--database", url(t)}
			r := start(t, args...)
			for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/install.sh": "#!/bin/sh"} {
				if status, body := get(t, http.DefaultClient, r.url+path); status != http.StatusOK || !strings.HasPrefix(body, want) {
					t.Errorf("%s: %d %.100s", path, status, body)
				}
			}
			if status, body := get(t, http.DefaultClient, r.url+"/metrics"); strings.Contains(body, "chom_") {
				t.Errorf("people see the metrics: %d", status)
			}
			if status, body := get(t, http.DefaultClient, "http://"+r.metrics+"/metrics"); status != http.StatusOK || !strings.Contains(body, "chom_link_agents") {
				t.Errorf("metrics: %d %.100s", status, body)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the data directory: %v, %v", info, err)
			}
			t.Run("speaks gRPC in clear", func(t *testing.T) {
				protocols := new(http.Protocols)
				protocols.SetUnencryptedHTTP2(true)
				client := connect.NewClient[emptypb.Empty, emptypb.Empty](&http.Client{Transport: &http.Transport{Protocols: protocols}},
					r.url+"/"+grpchealth.HealthV1ServiceName+"/Check", connect.WithGRPC())
				if _, err := client.CallUnary(t.Context(), connect.NewRequest(&emptypb.Empty{})); err != nil {
					t.Error(err)
				}
			})
			began := time.Now()
			if code := r.stop(); code != exitOK || time.Since(began) > 5*time.Second {
				t.Errorf("it ended with %d after %s", code, time.Since(began))
			}
			first := regexp.MustCompile(`chomsetup_\S+`).FindString(r.console.String())
			again := start(t, args...)
			if code := again.stop(); code != exitOK {
				t.Errorf("the second run ended with %d", code)
			}
			if second := regexp.MustCompile(`chomsetup_\S+`).FindString(again.console.String()); first == "" || second == "" || first == second {
				t.Errorf("the secrets are %q and %q", first, second)
			}
		})
	}
}

func TestHTTPS(t *testing.T) {
	t.Parallel() // it waits for a while
	dir := t.TempDir()
	cert, key, roots := selfSigned(t, dir)
	r := start(t, "--data-dir", filepath.Join(dir, "data"), "--people-cert", cert, "--people-key", key)
	defer r.stop()
	if !strings.HasPrefix(r.url, "https://127.0.0.1:") {
		t.Fatalf("the URL is %s", r.url)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	answer, err := client.Get(r.url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.ProtoMajor != 2 || answer.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%s, %d, %v", answer.Proto, answer.StatusCode, answer.Header)
	}

	t.Run("shows a renewed certificate without a restart", func(t *testing.T) {
		_, _, renewed := selfSigned(t, dir)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: renewed}, DisableKeepAlives: true}}
		deadline := time.Now().Add(3 * certificateEvery)
		for {
			answer, err := client.Get(r.url + "/healthz")
			if err == nil {
				answer.Body.Close()
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func selfSigned(t *testing.T, dir string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return cert, key, roots
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"version", []string{"version"}, exitOK, "chomd dev"},
		{"help", []string{"serve", "--help"}, exitOK, "--insecure-http"},
		{"a valid configuration", []string{"validate"}, exitOK, "The configuration is valid."},
		{"a broken configuration", []string{"validate", "--log-level", "loud"}, exitUsage, "log-level: must be debug, info, warn or error"},
		{"an unknown flag", []string{"serve", "--nonsense"}, exitUsage, "unknown flag"},
		{"an argument too many", []string{"serve", "now"}, exitUsage, "takes no argument"},
		{"an unknown command", []string{"nonsense"}, exitUsage, "takes no argument"},
		{"migrate", []string{"migrate", "--data-dir", filepath.Join(dir, "m")}, exitOK, "schema version"},
		{"rotate", []string{"pki", "rotate", "--data-dir", filepath.Join(dir, "m")}, exitOK, "The roots are rotated"},
		{"rotate the signer", []string{"pki", "rotate-signer", "--data-dir", filepath.Join(dir, "m")}, exitOK, "The signer is rotated"},
		{"rotate too soon", []string{"pki", "rotate", "--data-dir", filepath.Join(dir, "m")}, exitFailed, "30 days"},
		{"an address that is taken", []string{"serve", "--data-dir", filepath.Join(dir, "s"), "--people-listen", "127.0.0.1:1"}, exitFailed, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want == "" && os.Getuid() == 0 {
				test.args = append(test.args, "--people-listen", "192.0.2.1:80", "--insecure-http") // root may bind port 1, but no address of others
				test.want = "listen for people"
			}
			var out bytes.Buffer
			code := run(t.Context(), test.args, &out, &out)
			if code != test.code || !strings.Contains(out.String(), test.want) {
				t.Errorf("exit code %d: %s", code, out.String())
			}
		})
	}
}
