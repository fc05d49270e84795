// What the server answers. The cookie that came with the page holds the token.

export class ApiError extends Error {}

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(body.error ?? `the server answered ${response.status}`);
  return body;
}

export async function ask(path, parameters = {}) {
  const given = new URLSearchParams(parameters);
  const query = given.size ? `?${given}` : "";
  return answered(await fetch(`${path}${query}`, { credentials: "same-origin" }));
}

export async function rate(clipId, rating) {
  return answered(await fetch("/api/ratings", {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ clip_id: clipId, rating }),
  }));
}

export const audioOf = clipId => `/clips/${clipId}/audio`;
export const downloadOf = clipId => `/clips/${clipId}/audio?download=1`;
export const spectrogramOf = clipId => `/clips/${clipId}/spectrogram.png`;
export const referenceOf = (clipId, role) => `/clips/${clipId}/references/${role}`;
