package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// patience bounds how long a call is made again before its error is told: about a restart of the control plane.
const patience = 15 * time.Second

// patiently makes a call, and makes it again while the control plane does not answer or asks to wait. That is safe for changes
// too: a repeat has the key of the first try, by which the control plane knows it.
func (c *caller) patiently(ctx context.Context, call func() error) error {
	began := time.Now()
	for pause := time.Second; ; pause *= 2 {
		err := call()
		wait, again := c.pause(err, pause)
		if !again || time.Since(began)+wait > patience {
			return err
		}
		c.note("%s; trying again in %d s", explain(err).text, int(wait.Seconds()+0.5))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// pause is how long to wait before a failed call is made again, if that may help: what the control plane asks for, else usual.
func (c *caller) pause(err error, usual time.Duration) (time.Duration, bool) {
	switch connect.CodeOf(err) {
	case connect.CodeResourceExhausted: // refused before it had an effect
		asked := retryDelay(err)
		return asked, asked > 0
	case connect.CodeUnavailable:
		// An answer that it cannot be done now is the person's to judge: calls that are rare are not spent on it.
		return usual, c.token != "" && !connect.IsWireError(err) && !hopeless(err)
	}
	return 0, false
}

// hopeless reports that there is no such control plane, or one that cannot be trusted: waiting does not change that.
func hopeless(err error) bool {
	var name *net.DNSError
	return untrusted(err) || errors.As(err, &name) && name.IsNotFound
}

func untrusted(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

// retryDelay is how long the control plane asks to wait; 0 where it does not say.
func retryDelay(err error) time.Duration {
	if retry, ok := detail[*errdetails.RetryInfo](err); ok {
		return retry.GetRetryDelay().AsDuration()
	}
	return 0
}

// keyFor is the Idempotency-Key of a call: the id that its request brings, where it brings one.
func keyFor(request any) string {
	if own, ok := request.(interface{ GetRequestId() string }); ok && own.GetRequestId() != "" {
		return own.GetRequestId()
	}
	return "chom-" + rand.Text()
}
