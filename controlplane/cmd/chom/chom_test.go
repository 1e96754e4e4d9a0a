package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"
	"chom.dev/proto/gen/chom/token/v1/tokenv1connect"

	_ "chom.dev/controlplane/api" // part of chomd
	"chom.dev/controlplane/certificate/certificatetest"
	"chom.dev/controlplane/dns/dnstest"
	_ "chom.dev/controlplane/link" // part of chomd
	"chom.dev/servers/sshd"
)

// chomd is the control plane that the scripts talk to, built once.
var chomd string

func TestMain(m *testing.M) {
	// testscript runs this binary again as "chom": that must not build anything.
	if filepath.Base(os.Args[0]) != "chom" {
		// The test's cache must know what chomd is made of: its packages are imported, its own files looked at.
		sources, err := filepath.Glob("../chomd/*.go")
		if err != nil || len(sources) == 0 {
			panic("chomd's sources are not there")
		}
		for _, source := range sources {
			if _, err := os.Stat(source); err != nil {
				panic(err)
			}
		}
		dir, err := os.MkdirTemp("", "chom-test-")
		if err != nil {
			panic(err)
		}
		chomd = filepath.Join(dir, "chomd")
		if out, err := exec.Command("go", "build", "-o", chomd, "../chomd").CombinedOutput(); err != nil {
			panic(fmt.Sprintf("build chomd: %v\n%s", err, out))
		}
		defer os.RemoveAll(dir)
	}
	testscript.Main(m, map[string]func(){"chom": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			p, err := startControlPlane(env.WorkDir, "127.0.0.1:0", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := p.stop(); err != nil {
					t.Error(err)
				}
			})
			env.Values["plane"] = p
			env.Values["page"] = new(*page)
			env.Setenv("URL", p.url)
			env.Setenv("AGENTS", p.agents)
			env.Setenv("CHOM_CONFIG", filepath.Join(env.WorkDir, "config.json"))
			return os.WriteFile(filepath.Join(env.WorkDir, "secret"), []byte(p.secret+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"agent":     runAgent,
			"issue":     func(ts *testscript.TestScript, neg bool, args []string) { issue(t, ts, neg, args) },
			"restart":   restart,
			"restarted": restarted,
			"setvar":    setvar,
			"signin":    signIn,
			"browse":    browse,
			"mailed":    mailed,
			"tokenof":   tokenOf,
			"powerdns":  func(ts *testscript.TestScript, neg bool, args []string) { servePowerDNS(t, ts, neg, args) },
			"sshd":      func(ts *testscript.TestScript, neg bool, args []string) { serveSFTP(t, ts, neg, args) },
		},
	})
}

// exits N PROGRAM ARGS... runs a program that must end with exit code N.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// agent well|badly starts an agent with the join token in the file "token"; it does what it is ordered, or fails at it.
func runAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agent well|badly|silent")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	token := strings.TrimSpace(ts.ReadFile("token"))
	a, err := enroll(ctx, ts.Getenv("AGENTS"), token)
	ts.Check(err)
	go func() { ended <- a.run(ctx, args[0]) }()
	ts.Defer(func() {
		cancel()
		if err := <-ended; err != nil && ctx.Err() == nil {
			ts.Logf("agent: %v", err)
		}
	})
}

// issue NAME... writes a certificate for names into chain.pem, and its key into key.pem.
func issue(t *testing.T, ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: issue NAME...")
	}
	chain, key := certificatetest.New(t).Files(t, certificatetest.Leaf(args...))
	ts.Check(os.WriteFile(ts.MkAbs("chain.pem"), []byte(chain), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("key.pem"), []byte(key), 0o600))
}

// powerdns ZONE starts a real PowerDNS with a zone, and writes its credentials into the files "good" and "wrong".
func servePowerDNS(t *testing.T, ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: powerdns ZONE")
	}
	power := dnstest.StartPowerDNS(t, args[0])
	for file, key := range map[string]string{"good": power.Key, "wrong": "canary-of-nobody"} {
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte("server_url: "+power.URL+"\napi_key: "+key+"\n"), 0o600))
	}
}

// sshd starts a real SSH server with the directory "box", and writes the key that lets in, and one that does not, into "good" and "wrong".
// $BOX is the directory, and $HOSTKEY the server's key.
func serveSFTP(t *testing.T, ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: sshd")
	}
	for _, dir := range []string{"sshd", "box"} {
		ts.Check(os.Mkdir(ts.MkAbs(dir), 0o700))
	}
	server, err := sshd.Start(t.Context(), ts.MkAbs("sshd"), io.Discard)
	ts.Check(err)
	ts.Defer(server.Stop)
	for i, file := range []string{"good", "wrong"} {
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(server.Keys[i]), 0o600))
	}
	ts.Setenv("BOX", fmt.Sprintf("sftp://%s@%s:%d%s", server.User, server.Host, server.Port, ts.MkAbs("box")))
	ts.Setenv("HOSTKEY", server.HostKey)
}

// restart AFTER kills the control plane after a while, and starts it again on the same addresses; restarted waits until it has.
func restart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: restart AFTER")
	}
	after, err := time.ParseDuration(args[0])
	ts.Check(err)
	p := ts.Value("plane").(*controlPlane)
	done := make(chan error, 1)
	go func() {
		time.Sleep(after)
		done <- p.again()
	}()
	p.restarted = done
}

func restarted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: restarted")
	}
	ts.Check(<-ts.Value("plane").(*controlPlane).restarted)
}

// setvar NAME FILE PATTERN sets a variable to the first group of a pattern in a file (or in stdout).
func setvar(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: setvar NAME FILE PATTERN")
	}
	found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) != 2 {
		ts.Fatalf("%q is not in %s", args[2], args[1])
	}
	ts.Setenv(args[0], found[1])
}

// mailed FILE EMAIL SUBJECT waits for a mail to somebody and writes the link in it into a file.
func mailed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mailed FILE EMAIL SUBJECT")
	}
	link := regexp.MustCompile(`http://\S+#\S+`)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		mails, err := filepath.Glob(ts.MkAbs("mails/*.eml"))
		ts.Check(err)
		for _, mail := range mails {
			text, err := os.ReadFile(mail)
			ts.Check(err)
			if !strings.Contains(string(text), "To: <"+args[1]+">\r\n") || !strings.Contains(string(text), "Subject: "+args[2]+"\r\n") {
				continue
			}
			// Long lines are broken by "=" at their end.
			found := link.FindString(strings.ReplaceAll(string(text), "=\r\n", ""))
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(found+"\n"), 0o600))
			return
		}
	}
	ts.Fatalf("no mail to %s about %s", args[1], args[2])
}

// tokenof FILE EMAIL PASSWORD signs in as a browser does, and writes a token of the person into a file.
func tokenOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: tokenof FILE EMAIL PASSWORD")
	}
	url := ts.Getenv("URL")
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	browser := &http.Client{Jar: jar, Transport: &page{origin: url}}
	_, err = accountv1connect.NewSessionServiceClient(browser, url).Login(context.Background(), &accountv1.LoginRequest{Email: args[1], Password: args[2]})
	ts.Check(err)
	made, err := tokenv1connect.NewTokenServiceClient(browser, url).CreateToken(context.Background(), &tokenv1.CreateTokenRequest{Name: "test", Scope: accountv1.Scope_SCOPE_MANAGE})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(made.GetSecret()+"\n"), 0o600))
}

// controlPlane is a chomd of its own process.
type controlPlane struct {
	dir                 string
	url, agents, secret string
	process             *exec.Cmd
	ended               chan error
	restarted           chan error
}

func startControlPlane(dir, people, agents string) (*controlPlane, error) {
	p := &controlPlane{dir: dir}
	return p, p.start(people, agents)
}

func (p *controlPlane) start(people, agents string) error {
	p.process = exec.Command(chomd, "serve", "--data-dir", filepath.Join(p.dir, "chomd"), "--people-listen", people, "--agents-listen", agents, "--metrics-listen", "",
		"--mail-dir", filepath.Join(p.dir, "mails"), "--domain-proof", "none", "--resolver", "127.0.0.1:1")
	// A script that calls more often than people do says so in its file "limits", in chomd's flags.
	if limits, err := os.ReadFile(filepath.Join(p.dir, "limits")); err == nil {
		p.process.Args = append(p.process.Args, strings.Fields(string(limits))...)
	}
	p.process.Env = []string{"HOME=" + p.dir}
	console, err := p.process.StdoutPipe()
	if err != nil {
		return err
	}
	log, err := p.process.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.process.Start(); err != nil {
		return err
	}
	keep, err := os.OpenFile(filepath.Join(p.dir, "chomd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	serving := make(chan []string, 1)
	p.ended = make(chan error, 1)
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		defer keep.Close()
		lines := bufio.NewScanner(io.TeeReader(log, keep))
		for lines.Scan() {
			if found := regexp.MustCompile(`msg=serving .* url=(\S+) agent_address=(\S+)`).FindStringSubmatch(lines.Text()); found != nil {
				serving <- found[1:]
			}
		}
	}()
	secret := make(chan string, 1)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		lines := bufio.NewScanner(console)
		for lines.Scan() {
			if text := strings.TrimSpace(lines.Text()); strings.HasPrefix(text, "chomsetup_") {
				secret <- text
			}
		}
	}()
	go func() {
		<-logged
		<-shown
		p.ended <- p.process.Wait()
	}()
	select {
	case found := <-serving:
		p.url, p.agents = found[0], found[1]
	case err := <-p.ended:
		return fmt.Errorf("chomd ended: %w", err)
	case <-time.After(20 * time.Second):
		return errors.New("chomd does not serve")
	}
	if p.secret != "" {
		return nil
	}
	select {
	case p.secret = <-secret:
	case <-time.After(5 * time.Second):
		return errors.New("chomd printed no secret")
	}
	return nil
}

// stop ends it in order, which must take less than 5 s with agents connected.
func (p *controlPlane) stop() error {
	began := time.Now()
	if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop chomd: %w", err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("chomd: %w", err)
		}
	case <-time.After(10 * time.Second):
		return errors.Join(errors.New("chomd does not stop"), p.process.Process.Kill())
	}
	if took := time.Since(began); took > 5*time.Second {
		return fmt.Errorf("chomd took %s to stop", took)
	}
	return nil
}

// again kills it without warning and starts it on the same addresses.
func (p *controlPlane) again() error {
	if err := p.process.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	return p.start(strings.TrimPrefix(p.url, "http://"), p.agents)
}
