package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// machine is what the figures were taken on: they mean little without it.
type machine struct {
	Cores  int    `json:"cores"`
	CPU    string `json:"cpu"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Load   string `json:"load"` // averages of 1, 5 and 15 minutes, before the first figure
}

// thisMachine reads what /proc says; what it does not say stays empty.
func thisMachine() machine {
	m := machine{
		Cores:  runtime.NumCPU(),
		CPU:    field("/proc/cpuinfo", "model name"),
		Kernel: line("/proc/sys/kernel/osrelease"),
		Load:   strings.Join(strings.Fields(line("/proc/loadavg"))[:3], " "),
	}
	m.Memory, _ = kibibytes(field("/proc/meminfo", "MemTotal")) // 0 when it does not say
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("Machine: %d cores (%s), %.1f GiB, Linux %s, load before: %s",
		m.Cores, m.CPU, float64(m.Memory)/(1<<30), m.Kernel, m.Load)
}

// busy tells whether others left too little of the machine to trust a figure.
func (m machine) busy() bool {
	minute, _, _ := strings.Cut(m.Load, " ")
	load, err := strconv.ParseFloat(minute, 64)
	return err == nil && load > float64(m.Cores)/2
}

// line is a file's text without the last newline.
func line(path string) string {
	text, _ := os.ReadFile(path) // an unknown fact is shown as nothing
	return strings.TrimSpace(string(text))
}

// field is the value of the first "name: value" in a file.
func field(path, name string) string { return fieldOf(line(path), name) }

func fieldOf(text, name string) string {
	for l := range strings.Lines(text) {
		if key, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kibibytes reads "123 kB" as /proc writes it, in bytes.
func kibibytes(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSuffix(s, " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", s, err)
	}
	return n << 10, nil
}

// gauge reads one number without labels from what a /metrics page says.
func gauge(page io.Reader, name string) (int, error) {
	lines := bufio.NewScanner(page)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			return int(n), err
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}
