package resource

import "fmt"

// Action is what happens to an object.
type Action string

// The actions, as they stand in JSON. In text they print as + ~ -/+ -.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace" // deleted, then created
	Delete  Action = "delete"
)

// Symbol is the action's sign in a text plan.
func (a Action) Symbol() string {
	switch a {
	case Create:
		return "+"
	case Update:
		return "~"
	case Replace:
		return "-/+"
	}
	return "-"
}

// Disruption says whom a change hurts, from nobody upward.
type Disruption string

// The classes of disruption, as they stand in JSON.
const (
	DisruptsNothing  Disruption = "none"
	DisruptsNewFlows Disruption = "new-flows" // only flows that start during the change
	DisruptsPod      Disruption = "pod"       // cuts one pod briefly
	DisruptsLink     Disruption = "link"      // a link of the host flaps
	DisruptsSession  Disruption = "session"   // may cut the operator's own session
)

// Level orders the classes; those of DisruptsPod and above need --allow-disruption.
func (d Disruption) Level() int {
	switch d {
	case DisruptsNewFlows:
		return 1
	case DisruptsPod:
		return 2
	case DisruptsLink:
		return 3
	case DisruptsSession:
		return 4
	}
	return 0
}

// Text is the class in words.
func (d Disruption) Text() string {
	return [...]string{"none", "new flows only", "cuts one pod briefly", "link flap", "may cut this session"}[d.Level()]
}

// Field is one difference between what is and what should be.
type Field struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// cantChange begins the reason of a replace that comes from the object itself.
const cantChange = "can't change in place"

// ReasonReplace is the reason of a replace that comes from the object itself and not from what it lives with.
func ReasonReplace(fields []Field) string { return cantChange + listFields(fields) }

// ReasonUpdate is the reason of an update: the kernel can't say whether the files or the host changed.
func ReasonUpdate(fields []Field) string { return "drift or change" + listFields(fields) }

// shownFields is how many fields of a change people are shown; JSON has all of them.
const shownFields = 10

// listFields tells fields on one line: ": mtu 1500 -> 9000, master none -> br0".
func listFields(fields []Field) string {
	s, sep := "", ": "
	for i, f := range fields {
		if i == shownFields {
			return s + fmt.Sprintf(" and %d more", len(fields)-i)
		}
		s += sep + f.Name + " " + orNone(f.Before) + " -> " + orNone(f.After)
		sep = ", "
	}
	return s
}

// Change is one step of a plan.
type Change struct {
	ID         ID         `json:"id"`
	Action     Action     `json:"action"`
	Reason     string     `json:"reason"`
	Disruption Disruption `json:"disruption"`
	Fields     []Field    `json:"fields"`

	// Before and After are the observed and the desired resource; nil where there is none.
	Before Resource `json:"-"`
	After  Resource `json:"-"`
	// With is set where the kernel removes the object along with another one that this plan removes or replaces.
	With *ID `json:"-"`
	// Dropped is how much goes with the change that the files no longer name: the object, or frontends that it carries.
	Dropped int `json:"-"`
}

// Pod names the pod that the changed object belongs to, "" for what is the node's own.
func (c Change) Pod() string {
	switch {
	case c.After != nil:
		return Pod(c.After)
	case c.Before != nil && (c.With == nil || Pod(c.Before) != ""):
		return Pod(c.Before)
	case c.With != nil:
		return c.With.pod()
	}
	return c.ID.pod()
}

// Conflict is somebody else's object in the way of a desired one. Nothing is touched while there is any.
type Conflict struct {
	ID      ID     `json:"id"`      // the desired object
	Foreign string `json:"foreign"` // the object in the way, as `ip` would print it
	Owner   string `json:"owner"`   // whose it is, as far as the kernel says ("protocol static", "not marked as plumb's")
	Fix     string `json:"fix"`     // what a person can do
}

// Choice is the answer to one "auto" (or one explicit value) and why.
type Choice struct {
	Subject string `json:"subject"` // path of the field: "pods.web.attach"
	Wanted  string `json:"wanted"`
	Chosen  string `json:"chosen"`
	Reason  string `json:"reason"`

	// Makes are the objects that make it so, or that there are none of if it is.
	Makes []ID `json:"-"`
}

// Effective is what an observation that led to these changes found in the place of the choice: the value of the one setting
// that it comes to, or how much of what makes it so is there.
func (c Choice) Effective(changes []Change) string {
	makes := make(map[ID]bool, len(c.Makes))
	for _, id := range c.Makes {
		makes[id] = true
	}
	var differs []Change
	missing := 0
	for _, change := range changes {
		if makes[change.ID] {
			differs = append(differs, change)
			if change.Action == Create {
				missing++
			}
		}
	}
	switch {
	case len(differs) == 0:
		return c.Chosen
	case len(makes) == 1 && len(differs[0].Fields) == 1 && differs[0].Fields[0].Name == "value":
		return differs[0].Fields[0].Before
	case missing == len(makes):
		return "not there"
	}
	return fmt.Sprintf("other than chosen: %d of %d objects", len(differs), len(makes))
}

// Plan is everything that an apply would do, in an order that works, and what a person should know before.
type Plan struct {
	Node      string
	Kernel    string
	Changes   []Change
	Conflicts []Conflict
	Choices   []Choice
	Warnings  []string
}

// Empty reports whether the plan changes nothing.
func (p *Plan) Empty() bool { return len(p.Changes) == 0 }

// NeedsDisruption returns the changes that may be made only with --allow-disruption: those that cut a pod, a link or the
// operator's own session.
func (p *Plan) NeedsDisruption() []Change {
	var cuts []Change
	for _, c := range p.Changes {
		if c.Disruption.Level() >= DisruptsPod.Level() {
			cuts = append(cuts, c)
		}
	}
	return cuts
}

// Summary counts the changes of a plan by action.
type Summary struct {
	Create  int `json:"create"`
	Update  int `json:"update"`
	Replace int `json:"replace"`
	Delete  int `json:"delete"`
}

// Summary counts the plan's changes.
func (p *Plan) Summary() Summary {
	var s Summary
	for _, c := range p.Changes {
		switch c.Action {
		case Create:
			s.Create++
		case Update:
			s.Update++
		case Replace:
			s.Replace++
		case Delete:
			s.Delete++
		}
	}
	return s
}
