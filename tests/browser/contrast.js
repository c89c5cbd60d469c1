// Every text on the page with less contrast to what is behind it than WCAG 2.2 asks at level AA: 4.5, or 3 where it is large.
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const context = canvas.getContext("2d", { willReadFrequently: true });
const known = new Map();
const rgba = (text) => {
  if (!known.has(text)) {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    known.set(text, [r, g, b, a / 255]);
  }
  return known.get(text);
};
const over = (top, below) => top.slice(0, 3).map((value, i) => value * top[3] + below[i] * (1 - top[3])).concat(1);
const luminance = (colour) => {
  const [r, g, b] = colour.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const grounds = new Map();
const behind = (element) => {
  if (!element) return [255, 255, 255, 1];
  if (!grounds.has(element)) {
    grounds.set(element, over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement)));
  }
  return grounds.get(element);
};
const poor = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const box = element.getBoundingClientRect();
  if (!walker.currentNode.textContent.trim() || element.closest("script, .unseen, caption, [hidden], option") || !box.width) continue;
  const style = getComputedStyle(element);
  if (style.visibility === "hidden") continue;
  const ground = behind(element);
  const ink = over(rgba(element.closest("svg") ? style.fill : style.color), ground);
  const [light, dark] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  seen += 1;
  if (ratio < (large ? 3 : 4.5)) poor.push(`${ratio.toFixed(2)}: ${element.tagName}.${element.className} "${walker.currentNode.textContent.trim().slice(0, 40)}"`);
}
// Marks of charts need 3 against the page.
document.querySelectorAll(".chart svg .mark-symbol path, .chart svg .mark-rect path").forEach((mark) => {
  const style = getComputedStyle(mark);
  const colour = style.fill === "none" || rgba(style.fill)[3] === 0 ? style.stroke : style.fill;
  if (colour === "none") return;
  const ground = behind(mark.closest(".chart"));
  const [light, dark] = [luminance(over(rgba(colour), ground)), luminance(ground)].sort((a, b) => b - a);
  seen += 1;
  if ((light + 0.05) / (dark + 0.05) < 3) poor.push(`${((light + 0.05) / (dark + 0.05)).toFixed(2)}: mark ${colour}`);
});
return { seen, poor: [...new Set(poor)].slice(0, 20) };
