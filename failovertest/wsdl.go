package failovertest

import (
	"fmt"
	"net/http"
)

// nsFailover is the namespace of the FailoverPolicy that the .NET SDK reads.
const nsFailover = "http://schemas.microsoft.com/xrm/2012/Contracts/Services"

// wsdl answers GET of Organization.svc. The document at ?wsdl imports ?wsdl=wsdl0 from the
// same host, which has the policies. It needs no token and is served by a fenced datacenter,
// too, whose FailoverPolicy then says so.
func (d *Datacenter) wsdl(r *request) *answer {
	address := "https://" + r.host + "/XRMServices/2011/Organization.svc"
	var text string
	switch {
	case !r.query.Has("wsdl"):
		return newAnswer(http.StatusOK, "text/html", fmt.Appendf(nil,
			"<html><head><title>OrganizationService Service</title></head><body>"+
				"<p>You have created a service. See %s?wsdl.</p></body></html>", address))
	case r.query.Get("wsdl") == "":
		text = fmt.Sprintf(wsdlRoot, nsContracts, nsServices, address)
	case r.query.Get("wsdl") == "wsdl0":
		text = fmt.Sprintf(wsdlServices, nsServices, nsFailover, d.org.alternate != nil, !d.fenced)
	default:
		return newAnswer(http.StatusNotFound, "text/html", nil)
	}
	return newAnswer(http.StatusOK, "text/xml; charset=utf-8", []byte(text))
}

const wsdlRoot = `<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions name="OrganizationService" targetNamespace="%[1]s"
    xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap12="http://schemas.xmlsoap.org/wsdl/soap12/"
    xmlns:wsa10="http://www.w3.org/2005/08/addressing" xmlns:i0="%[2]s">
  <wsdl:import namespace="%[2]s" location="%[3]s?wsdl=wsdl0"/>
  <wsdl:types/>
  <wsdl:service name="OrganizationService">
    <wsdl:port name="CustomBinding_IOrganizationService" binding="i0:CustomBinding_IOrganizationService">
      <soap12:address location="%[3]s"/>
      <wsa10:EndpointReference><wsa10:Address>%[3]s</wsa10:Address></wsa10:EndpointReference>
    </wsdl:port>
  </wsdl:service>
</wsdl:definitions>
`

const wsdlServices = `<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions targetNamespace="%[1]s" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/"
    xmlns:soap12="http://schemas.xmlsoap.org/wsdl/soap12/" xmlns:tns="%[1]s"
    xmlns:wsp="http://schemas.xmlsoap.org/ws/2004/09/policy"
    xmlns:wsu="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd">
  <wsp:Policy wsu:Id="CustomBinding_IOrganizationService_policy">
    <wsp:ExactlyOne>
      <wsp:All>
        <ms-xrm:AuthenticationPolicy xmlns:ms-xrm="%[1]s">
          <ms-xrm:Authentication>OnlineFederation</ms-xrm:Authentication>
        </ms-xrm:AuthenticationPolicy>
        <ms-xrm:FailoverPolicy xmlns:ms-xrm="%[2]s">
          <ms-xrm:FailoverAvailable>%[3]t</ms-xrm:FailoverAvailable>
          <ms-xrm:EndpointEnabled>%[4]t</ms-xrm:EndpointEnabled>
        </ms-xrm:FailoverPolicy>
      </wsp:All>
    </wsp:ExactlyOne>
  </wsp:Policy>
  <wsdl:portType name="IOrganizationService"/>
  <wsdl:binding name="CustomBinding_IOrganizationService" type="tns:IOrganizationService">
    <wsp:PolicyReference URI="#CustomBinding_IOrganizationService_policy"/>
    <soap12:binding transport="http://schemas.xmlsoap.org/soap/http"/>
  </wsdl:binding>
</wsdl:definitions>
`
