package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
)

// Request is one deployment, as a task asks for it.
type Request struct {
	Attempt     string         `json:"attempt"` // Task.ID: the same for a repeat
	Run         string         `json:"run"`
	Environment string         `json:"environment"`
	Fence       events.Fence   `json:"fence"`
	Timeout     Span           `json:"timeout,omitzero"` // how long all of it may take; 0 leaves it to the driver
	Strategy    string         `json:"strategy"`
	Artifact    string         `json:"artifact"`         // sha256:<64 hex digits>
	Undo        string         `json:"undo,omitempty"`   // of an undo: the artifact that is taken back; Artifact is what was there before, "" for nothing
	Config      map[string]any `json:"config,omitempty"` // of the environment
	// Target is the driver's part of the environment's target, Settings
	// included; With are the settings that the task gives on top of it.
	Target map[string]any `json:"target,omitempty"`
	With   Settings       `json:"with"`
}

// Settings say how a release is to run. They stand in the environment's
// target and, with precedence, in the task's inputs. Zero means not given.
type Settings struct {
	Instances     int               `json:"instances,omitempty"`
	Args          []string          `json:"args,omitempty"`
	Env           map[string]string `json:"env,omitempty"`
	Health        string            `json:"health,omitempty"` // a path that answers 2xx or 3xx, or "tcp"
	HealthTimeout Span              `json:"healthTimeout,omitzero"`
	Drain         Span              `json:"drain,omitzero"` // how long requests in flight may take to end
}

// Defaults of Settings.
const (
	DefaultHealth        = "/healthz"
	DefaultHealthTimeout = Span(10 * time.Second)
	DefaultDrain         = Span(5 * time.Second)
)

// HealthTCP as Settings.Health means that accepting a connection is health enough.
const HealthTCP = "tcp"

// Over gives s with everything that top has on top of it. Env is merged by
// name, everything else replaced.
func (s Settings) Over(top Settings) Settings {
	if top.Instances != 0 {
		s.Instances = top.Instances
	}
	if top.Args != nil {
		s.Args = top.Args
	}
	if top.Health != "" {
		s.Health = top.Health
	}
	if top.HealthTimeout != 0 {
		s.HealthTimeout = top.HealthTimeout
	}
	if top.Drain != 0 {
		s.Drain = top.Drain
	}
	env := maps.Clone(s.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, top.Env)
	s.Env = env
	return s
}

// Complete fills in the defaults and reports everything that is wrong.
func (s Settings) Complete() (Settings, error) {
	s = Settings{Instances: 1, Health: DefaultHealth, HealthTimeout: DefaultHealthTimeout, Drain: DefaultDrain}.Over(s)
	var errs []error
	if s.Instances < 1 || s.Instances > 100 {
		errs = append(errs, fmt.Errorf("instances: %d is not between 1 and 100", s.Instances))
	}
	if s.Health != HealthTCP && !strings.HasPrefix(s.Health, "/") {
		errs = append(errs, fmt.Errorf("health: %q is neither a path that begins with / nor %q", s.Health, HealthTCP))
	}
	if s.HealthTimeout < 0 || s.Drain < 0 {
		errs = append(errs, errors.New("healthTimeout and drain must not be negative"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(s.Env[name], "\x00") {
			errs = append(errs, fmt.Errorf("env: %q is not a variable that a process can have", name))
		}
	}
	return s, errors.Join(errs...)
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// newRequest takes from the job what does not depend on its inputs.
func newRequest(job *workers.Job, target map[string]any) Request {
	return Request{Attempt: job.ID, Run: job.Run, Environment: job.Environment.Name, Fence: job.Fence,
		Timeout: Span(time.Duration(job.Timeout) * time.Millisecond), Config: job.Environment.Config, Target: target}
}

// read takes the task's inputs and reports everything that is wrong.
func (r *Request) read(with map[string]any) error {
	var in struct {
		Artifact string `json:"artifact"`
		Strategy string `json:"strategy"`
		Undo     string `json:"undo"`
		Weight   int    `json:"weight"`
		Step     int    `json:"step"`
		Settings
	}
	if err := Decode(with, &in); err != nil {
		return fmt.Errorf("with: %w", err)
	}
	r.Artifact, r.Strategy, r.Undo, r.With = in.Artifact, in.Strategy, in.Undo, in.Settings
	var errs []error
	if in.Weight > 0 {
		return fmt.Errorf("with.weight: this target cannot give a release a part of the traffic (step %d gives it %d %%); a canary needs a target that can, here use one of: %s",
			in.Step, in.Weight, strings.Join(slices.Sorted(maps.Keys(Strategies())), ", "))
	}
	if r.Undo != "" && !digestForm.MatchString(r.Undo) {
		errs = append(errs, fmt.Errorf("with.undo: %q is not a digest (sha256: and 64 hex digits)", r.Undo))
	}
	if !digestForm.MatchString(r.Artifact) && !r.Removes() {
		errs = append(errs, fmt.Errorf("with.artifact: %q is not a digest (sha256: and 64 hex digits); deploy takes what a build gave", r.Artifact))
	}
	if Strategies()[r.Strategy] == nil {
		errs = append(errs, fmt.Errorf("with.strategy: %q is not one of: %s", r.Strategy, strings.Join(slices.Sorted(maps.Keys(Strategies())), ", ")))
	}
	return errors.Join(errs...)
}

// Removes reports whether an undo leaves nothing live.
func (r *Request) Removes() bool { return r.Undo != "" && r.Artifact == "" }

// Decode reads a structure of JSON values into dst, a pointer to a struct; a
// key that dst does not have is an error.
func Decode(from map[string]any, dst any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(dst)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s: a %s does not fit, it must be %s", wrong.Field, wrong.Value, wrong.Type)
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// Environ gives the variables that tell a release where and why it runs:
// PENSTOCK_ENVIRONMENT, PENSTOCK_ARTIFACT, PENSTOCK_RUN, and the environment's
// configuration as PENSTOCK_CONFIG_<NAME>, NAME in capitals, text as it is and
// everything else as JSON.
func (r *Request) Environ() map[string]string {
	env := map[string]string{"PENSTOCK_ENVIRONMENT": r.Environment, "PENSTOCK_ARTIFACT": r.Artifact, "PENSTOCK_RUN": r.Run}
	for name, v := range r.Config {
		text, ok := v.(string)
		if !ok {
			b, err := json.Marshal(v)
			if err != nil {
				continue // unreachable unless a caller put a Go value there that JSON does not have
			}
			text = string(b)
		}
		env["PENSTOCK_CONFIG_"+variableName(name)] = text
	}
	return env
}

func variableName(name string) string {
	return strings.Map(func(c rune) rune {
		if c < 128 && (unicode.IsLetter(c) || unicode.IsDigit(c)) {
			return unicode.ToUpper(c)
		}
		return '_'
	}, name)
}

// Span is a length of time that JSON writes as in Go ("1m30s"), "d" for 24
// hours included; a number is seconds.
type Span time.Duration

func (s Span) String() string { return time.Duration(s).String() }

// MarshalJSON writes the Go form.
func (s Span) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads text or a number of seconds.
func (s *Span) UnmarshalJSON(p []byte) error {
	var seconds float64
	if json.Unmarshal(p, &seconds) == nil {
		*s = Span(seconds * float64(time.Second))
		return nil
	}
	var text string
	if err := json.Unmarshal(p, &text); err != nil {
		return fmt.Errorf("%s is not a length of time like \"10s\"", p)
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil {
			*s = Span(n * 24 * float64(time.Hour))
			return nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a length of time like \"10s\"", text)
	}
	*s = Span(d)
	return nil
}
