"use strict";

const target = document.getElementById("docs");
const dark = matchMedia("(prefers-color-scheme: dark)");

// Swagger UI has dark colours, but takes them from this class and not from the system.
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  domNode: target,
  // Absolute: a page opened as http://user:password@host/ may not fetch relative addresses.
  url: new URL(target.dataset.spec, location.origin).href,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null, // an outside host
});
