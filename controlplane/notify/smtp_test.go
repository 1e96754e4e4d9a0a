package notify

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	gomail "github.com/wneessen/go-mail"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/outbox"
)

func message(t *testing.T, n int) *gomail.Msg {
	t.Helper()
	msg := gomail.NewMsg()
	msg.FromMailAddress(&from)
	must(t, msg.To("anna@example.com"))
	msg.Subject(fmt.Sprint("number ", n))
	msg.SetBodyString(gomail.TypeTextPlain, "text\n")
	return msg
}

func TestSMTP(t *testing.T) {
	t.Run("encrypts by STARTTLS", func(t *testing.T) {
		k := newSink(t, false)
		must(t, k.sender(t, StartTLS).Send(t.Context(), message(t, 1)))
		if len(k.got()) != 1 || !k.tls[0] {
			t.Errorf("%d mails, encrypted: %v", len(k.got()), k.tls)
		}
	})
	t.Run("sends nothing to a server that offers no STARTTLS", func(t *testing.T) {
		k := newSink(t, false, withoutTLS)
		err := k.sender(t, StartTLS).Send(t.Context(), message(t, 1))
		if err == nil || !strings.Contains(err.Error(), "STARTTLS") || len(k.got()) != 0 || outbox.IsPermanent(err) {
			t.Errorf("got %v, %d mails", err, len(k.got()))
		}
	})
	t.Run("encrypts from the first byte", func(t *testing.T) {
		k := newSink(t, true, withPassword("chom", "secret"))
		must(t, k.sender(t, Implicit).Send(t.Context(), message(t, 1)))
		if len(k.got()) != 1 {
			t.Errorf("%d mails", len(k.got()))
		}
	})
	for encryption, implicit := range map[Encryption]bool{StartTLS: false, Implicit: true} {
		t.Run("sends nothing to a stranger, by "+string(encryption), func(t *testing.T) {
			k := newSink(t, implicit)
			_, another := authority(t)
			k.roots = pool(t, another)
			err := k.sender(t, encryption).Send(t.Context(), message(t, 1))
			if err == nil || !strings.Contains(err.Error(), "certificate") || len(k.got()) != 0 || outbox.IsPermanent(err) {
				t.Errorf("got %v, %d mails", err, len(k.got()))
			}
		})
	}
	t.Run("signs in", func(t *testing.T) {
		k := newSink(t, false, withPassword("chom", "secret"))
		must(t, k.sender(t, StartTLS).Send(t.Context(), message(t, 1)))
		if len(k.got()) != 1 {
			t.Errorf("%d mails", len(k.got()))
		}
	})
	t.Run("takes a wrong password for a matter of the configuration", func(t *testing.T) {
		k := newSink(t, false, withPassword("chom", "secret"))
		s := k.sender(t, StartTLS)
		k.password = "another"
		err := s.Send(t.Context(), message(t, 1))
		if err == nil || outbox.IsPermanent(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("carries several mails on a connection, at a bounded rate", func(t *testing.T) {
		k := newSink(t, false)
		s := k.sender(t, StartTLS)
		began := time.Now()
		for n := range 5 {
			must(t, s.Send(t.Context(), message(t, n)))
		}
		if took := time.Since(began); k.connections != 1 || len(k.got()) != 5 || took < 4*mailPause {
			t.Errorf("%d mails on %d connections in %s", len(k.got()), k.connections, took)
		}
	})
	t.Run("replaces a connection that the server ended meanwhile", func(t *testing.T) {
		k := newSink(t, false)
		s := k.sender(t, StartTLS)
		must(t, s.Send(t.Context(), message(t, 1)))
		must(t, s.idle[0].socket.Close())
		must(t, s.Send(t.Context(), message(t, 2)))
		if k.connections != 2 || len(k.got()) != 2 {
			t.Errorf("%d mails on %d connections", len(k.got()), k.connections)
		}
	})
	t.Run("gives up on a server that says nothing", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer listener.Close()
		s, err := NewSMTP(Server{Address: listener.Addr().String(), Encryption: StartTLS, HELO: "x.example"})
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := s.Send(ctx, message(t, 1)); err == nil || time.Since(began) > 3*time.Second || outbox.IsPermanent(err) {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
	t.Run("gives up on a server that falls silent in the middle", func(t *testing.T) {
		k := newSink(t, false)
		hung := make(chan struct{})
		t.Cleanup(func() { close(hung) })
		k.onData = func(int) error { <-hung; return nil }
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := k.sender(t, StartTLS).Send(ctx, message(t, 1)); err == nil || time.Since(began) > 3*time.Second || outbox.IsPermanent(err) {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestTroubles has a mail server refuse, fail and cut, and looks what becomes of the mail.
func TestTroubles(t *testing.T) {
	greylisted := &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "come back later"}
	unknown := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	spam := &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "this is spam"}
	first := func(err error) func(int) error {
		return func(n int) error {
			if n == 1 {
				return err
			}
			return nil
		}
	}
	always := func(err error) func(int) error { return func(int) error { return err } }
	for name, test := range map[string]struct {
		onRcpt, onData func(int) error
		want           outbox.State
		tries          int
		problem        string
	}{
		"a recipient who is greylisted gets it later":  {onRcpt: first(greylisted), want: outbox.Sent, tries: 2},
		"a server that is busy gets it later":          {onData: first(greylisted), want: outbox.Sent, tries: 2},
		"a cut connection is made anew":                {onData: first(errCut), want: outbox.Sent, tries: 2},
		"a mail to nobody is dead":                     {onRcpt: always(unknown), want: outbox.Dead, tries: 1, problem: "no such user"},
		"a mail that the server does not like is dead": {onData: always(spam), want: outbox.Dead, tries: 1, problem: "this is spam"},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, d *db.DB) {
				k := newSink(t, false)
				k.onRcpt, k.onData = test.onRcpt, test.onData
				m := newMails(t, d, k.sender(t, StartTLS))
				run(t, d, m)
				s := ends(t, m, ask(t, d, m, "a@example.com", TemplateVerifyEmail), test.want)
				if s.Tries != test.tries || !strings.Contains(s.Problem, test.problem) {
					t.Errorf("it is %+v", s)
				}
			})
		})
	}
}
