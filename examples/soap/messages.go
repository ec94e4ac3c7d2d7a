package main

import (
	"encoding/xml"
	"slices"
)

// The messages of the organization service that the example needs, as gowsdl would generate them:
// structs for encoding/xml. The members of a data contract are in alphabetical order, which .NET
// requires.
//
// Microsoft describes the contracts at
// https://learn.microsoft.com/dotnet/api/microsoft.xrm.sdk.iorganizationservice

const (
	// actionPrefix and the name of an operation form its SOAPAction.
	actionPrefix = "http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/"

	nsContracts = "http://schemas.microsoft.com/xrm/2011/Contracts"
	nsCRM       = "http://schemas.microsoft.com/crm/2011/Contracts"
	nsXSD       = "http://www.w3.org/2001/XMLSchema"
)

// to is the header wsa:To (WS-Addressing 1.0, section 3.1).
type to struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/08/addressing To"`
	Address string   `xml:",chardata"`
}

type create struct {
	XMLName xml.Name `xml:"http://schemas.microsoft.com/xrm/2011/Contracts/Services Create"`
	Entity  entity   `xml:"entity"`
}

type update struct {
	XMLName xml.Name `xml:"http://schemas.microsoft.com/xrm/2011/Contracts/Services Update"`
	Entity  entity   `xml:"entity"`
}

type execute struct {
	XMLName xml.Name `xml:"http://schemas.microsoft.com/xrm/2011/Contracts/Services Execute"`
	Request request  `xml:"request"`
}

// request is an OrganizationRequest without parameters.
type request struct {
	NS         string   `xml:"xmlns:g,attr"`
	Type       string   `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
	Parameters struct{} `xml:"http://schemas.microsoft.com/xrm/2011/Contracts Parameters"`
	Name       string   `xml:"http://schemas.microsoft.com/xrm/2011/Contracts RequestName"`
}

func newRequest(name string) request {
	return request{NS: nsCRM, Type: "g:" + name + "Request", Name: name}
}

type executeResponse struct {
	Results attributes `xml:"ExecuteResult>Results"`
}

type retrieve struct {
	XMLName    xml.Name  `xml:"http://schemas.microsoft.com/xrm/2011/Contracts/Services Retrieve"`
	EntityName string    `xml:"entityName"`
	ID         string    `xml:"id"`
	ColumnSet  columnSet `xml:"columnSet"`
}

type retrieveResponse struct {
	Entity entity `xml:"RetrieveResult"`
}

type retrieveMultiple struct {
	XMLName xml.Name `xml:"http://schemas.microsoft.com/xrm/2011/Contracts/Services RetrieveMultiple"`
	Query   query    `xml:"query"`
}

// query is a QueryExpression without criteria.
type query struct {
	NS         string    `xml:"xmlns:g,attr"`
	Type       string    `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
	ColumnSet  columnSet `xml:"http://schemas.microsoft.com/xrm/2011/Contracts ColumnSet"`
	EntityName string    `xml:"http://schemas.microsoft.com/xrm/2011/Contracts EntityName"`
	PageInfo   pageInfo  `xml:"http://schemas.microsoft.com/xrm/2011/Contracts PageInfo"`
}

func newQuery(entityName string, columns columnSet, page pageInfo) query {
	return query{NS: nsContracts, Type: "g:QueryExpression", ColumnSet: columns, EntityName: entityName, PageInfo: page}
}

type pageInfo struct {
	Count      int `xml:"http://schemas.microsoft.com/xrm/2011/Contracts Count"`
	PageNumber int `xml:"http://schemas.microsoft.com/xrm/2011/Contracts PageNumber"`
}

type retrieveMultipleResponse struct {
	Entities []entity `xml:"RetrieveMultipleResult>Entities>Entity"`
}

type columnSet struct {
	AllColumns bool    `xml:"http://schemas.microsoft.com/xrm/2011/Contracts AllColumns"`
	Columns    columns `xml:"http://schemas.microsoft.com/xrm/2011/Contracts Columns"`
}

type columns struct {
	Names []name `xml:"http://schemas.microsoft.com/2003/10/Serialization/Arrays string"`
}

type name struct {
	Text string `xml:",chardata"`
}

type entity struct {
	Attributes  attributes `xml:"http://schemas.microsoft.com/xrm/2011/Contracts Attributes"`
	ID          string     `xml:"http://schemas.microsoft.com/xrm/2011/Contracts Id"`
	LogicalName string     `xml:"http://schemas.microsoft.com/xrm/2011/Contracts LogicalName"`
}

type attributes struct {
	List []attribute `xml:"KeyValuePairOfstringanyType"`
}

type attribute struct {
	Key   string `xml:"http://schemas.datacontract.org/2004/07/System.Collections.Generic key"`
	Value value  `xml:"http://schemas.datacontract.org/2004/07/System.Collections.Generic value"`
}

type value struct {
	NS   string `xml:"xmlns:c,attr"`
	Type string `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
	Text string `xml:",chardata"`
}

// text returns the value of an attribute, "" if there is none.
func (a attributes) text(key string) string {
	i := slices.IndexFunc(a.List, func(a attribute) bool { return a.Key == key })
	if i < 0 {
		return ""
	}
	return a.List[i].Value.Text
}

// newEntity returns the entity of an account with the fields that are set.
func newEntity(a Account) entity {
	e := entity{ID: a.ID, LogicalName: "account"}
	for _, field := range [][2]string{{"name", a.Name}, {"description", a.Description}} {
		if field[1] != "" {
			e.Attributes.List = append(e.Attributes.List, attribute{field[0], value{nsXSD, "c:string", field[1]}})
		}
	}
	return e
}

// account returns the account of an entity.
func (e *entity) account() Account {
	return Account{ID: e.ID, Name: e.Attributes.text("name"), Description: e.Attributes.text("description")}
}

// faultEnvelope is the part of an envelope with a fault that is used.
type faultEnvelope struct {
	Fault struct {
		Code   string `xml:"faultcode"`
		String string `xml:"faultstring"`
		// ErrorCode of the OrganizationServiceFault, 0 if there is none.
		ErrorCode int32 `xml:"detail>OrganizationServiceFault>ErrorCode"`
	} `xml:"Body>Fault"`
}
