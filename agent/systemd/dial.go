package systemd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// privateSocket is PID 1's own, which works while the message bus is down.
const privateSocket = "unix:path=/run/systemd/private"

// greetFor bounds the wait for PID 1's first answer; it is busy while it loads
// the units of a large host anew.
const greetFor = 10 * time.Second

// dial connects to PID 1's own socket.
//
// PID 1 reads all that has come along with the end of the greeting, and then
// lets it lie until more comes. Had file descriptors come with it, it would
// hang up. So it is asked again and again whether it is there, and nothing else
// is said, until it answers.
func dial() (*dbus.Conn, error) {
	conn, err := dbus.Dial(privateSocket)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil {
		err = ping(conn)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", errors.Join(err, conn.Close()))
	}
	return conn, nil
}

func ping(conn *dbus.Conn) error {
	const most = 32 // at doubled pauses, far more than the time allows
	answers := make(chan *dbus.Call, most)
	timeout := time.After(greetFor)
	for pause := time.Millisecond; ; pause *= 2 {
		conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").Go("org.freedesktop.DBus.Peer.Ping", 0, answers)
		select {
		case call := <-answers:
			return call.Err
		case <-time.After(pause):
		case <-timeout:
			return errors.New("it does not answer")
		}
	}
}
