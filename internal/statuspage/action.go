package statuspage

import "fmt"

// Action is something that a person may do, with the texts of its form.
type Action struct {
	Name  string // the last element of its path
	Label string // of the button
	// Field is the name of the form field for the endpoint, empty if there is none.
	Field       string
	NeedsReason bool
	heading     string
	text        string
}

// Actions returns the actions in the order of the page.
func Actions() []Action {
	return []Action{
		{Name: "switch", Label: "Switch", Field: "to", NeedsReason: true, heading: "Switch the traffic",
			text: "Switches all traffic to an endpoint that passes its probe; if it does not pass, nothing changes. Requests under way are not interrupted. " +
				"The latest writes may not have been replicated: check the writes at risk afterwards. This also releases the latch."},
		{Name: "pin", Label: "Pin", Field: "endpoint", NeedsReason: true, heading: "Pin the traffic",
			text: "Sends all traffic to an endpoint, without a probe and whether or not it serves, until somebody unpins it. There are no automatic switches until then."},
		{Name: "unpin", Label: "Unpin", NeedsReason: true, heading: "Unpin the traffic",
			text: "Allows automatic switches again, and releases the latch."},
		{Name: "freeze", Label: "Freeze the fleet", NeedsReason: true, heading: "Freeze the fleet",
			text: "Stops automatic switches in every process of the fleet, including processes that start later, until somebody unfreezes it. " +
				"Traffic stays where it is, even if the endpoint fails. Switch still switches the whole fleet."},
		{Name: "unfreeze", Label: "Unfreeze the fleet", heading: "Unfreeze the fleet",
			text: "Allows automatic switches again in every process of the fleet. A process that is pinned stays pinned."},
		{Name: "verify", Label: "Verify", heading: "Verify the writes at risk",
			text: "Reads the record of every write at risk at the active endpoint, with GET requests only, at most ten per second. The page shows the result."},
	}
}

// FindAction returns the action with a name.
func FindAction(name string) (*Action, bool) {
	for _, a := range Actions() {
		if a.Name == name {
			return &a, true
		}
	}
	return nil, false
}

// Form is the form of an action, with what was entered so far.
type Form struct {
	*Action
	// Chosen endpoint, and the reason.
	Chosen, Reason string
	// Refused is why the action was refused, if it was tried.
	Refused string
}

// formView is the data of the form's template.
type formView struct {
	view
	*Form
}

// Renewed reports false, so that nobody has to type a reason twice.
func (p formView) Renewed() bool { return false }

// Title is the page's title.
func (p formView) Title() string { return p.Label + ": " + p.Primary.URL }

// Heading names the action, and Text describes its effect.
func (p formView) Heading() string { return p.heading }
func (p formView) Text() string {
	if p.Name == "verify" {
		if n := p.writes(); n > 0 {
			return fmt.Sprintf("%s There are %d.", p.text, n)
		}
		return p.text + " There are none."
	}
	return p.text
}

func (p formView) writes() (n int) {
	for i := range p.Losses {
		n += p.Losses[i].Writes()
	}
	return n
}

// Chosen returns the endpoint that was entered, or else the most likely one: the other endpoint
// for a switch, the active one for a pin.
func (p formView) Chosen() string {
	active, other := p.side()
	switch {
	case p.Form.Chosen != "":
		return p.Form.Chosen
	case p.Name == "switch" && other != nil:
		return other.Name
	default:
		return active.Name
	}
}

// Choices are the endpoints to choose from.
func (p formView) Choices() []*Endpoint {
	if p.Alternate == nil {
		return []*Endpoint{&p.Primary}
	}
	return []*Endpoint{&p.Primary, p.Alternate}
}

// actionLink is a link from the page to the form of an action.
type actionLink struct{ Link, Label string }

// Actions returns the links to the actions that are possible now.
func (p view) Actions() []actionLink {
	var links []actionLink
	for _, a := range Actions() {
		switch {
		case a.Name == "unpin" && !p.Pinned && !p.Latched, a.Name == "verify" && len(p.Losses) == 0,
			a.Name == "freeze" && (p.Fleet == nil || p.frozen()), a.Name == "unfreeze" && !p.frozen(), p.Closed:
			continue
		}
		links = append(links, actionLink{"./" + p.Mount + a.Name, a.Label + " …"})
	}
	return links
}
